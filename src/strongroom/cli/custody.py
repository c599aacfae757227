"""``strongroom custody``: make a master key, try one, or move a dataset from one to another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import (
    VerbGroup,
    asked_for,
    custody_password_option,
    home_option,
    opening,
    password_option,
    password_source,
    verb,
)

_SOFTHSM = "'pkcs11:token=clinic;object=claims?module-path=/usr/lib/softhsm/libsofthsm2.so'"
_URI = "file:/path/master.key, openbao://host:port/mount/key?... or pkcs11:token=NAME;object=KEY?..."


@click.group(cls=VerbGroup)
def custody() -> None:
    """Make a master key in a file, a key service or an HSM; try one; move a dataset from one to another."""


def _password_file(*, confirm: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--password-file",
        "password",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=lambda context, _option, value: password_source(
            value, confirm=confirm, asking=lambda: asked_for(context.params["uri"])
        ),
        help="Read the password or PIN from the first line of FILE instead of asking on the terminal.",
        metavar="FILE",
    )


@verb(
    group=custody,
    examples=(
        f"strongroom custody create {_SOFTHSM}",
        "strongroom custody create 'openbao://bao.example:8200/transit/claims?ca=/etc/bao/ca.pem&token_file=/etc/bao/token'",
        "strongroom custody create file:/media/usb/master.key",
    ),
)
@click.argument("uri", metavar="URI")
@_password_file(confirm=True)
def create(screen: Screen, *, uri: str, password: Callable[[], bytes]) -> None:
    """Make a master key at URI that can never leave it; one that is there is never overwritten.

    A PIN is tried once, since a token locks after a few wrong ones.
    """
    from strongroom.envelope.custody import create_custody

    made = create_custody(uri, password=password)
    screen.say("nothing that it wraps can be opened without it: keep a copy, or let the key service or HSM keep one")
    screen.result({"custody": made.uri}, text=(made.uri,))


@verb(group=custody, examples=(f"strongroom custody check {_SOFTHSM}",))
@click.argument("uri", metavar="URI")
@_password_file(confirm=False)
def check(screen: Screen, *, uri: str, password: Callable[[], bytes]) -> None:
    """Say whether the master key at URI can be used: open it, and have it wrap and unwrap a key made for that."""
    from strongroom.envelope.custody import CustodyError, open_custody
    from strongroom.envelope.keys import DataKey

    opened, key = open_custody(uri, password=password), DataKey.generate()
    started = time.perf_counter()
    wrapped = opened.wrap(key, context=b"custody check")
    between = time.perf_counter()
    if opened.unwrap(wrapped, context=b"custody check") != key:
        raise CustodyError(f"{opened.uri} unwraps another key than it wrapped", hint="do not use it")
    took = {"wrap_seconds": between - started, "unwrap_seconds": time.perf_counter() - between}
    screen.result(
        {"custody": opened.uri, **took},
        text=(f"{opened.uri} wraps and unwraps, in {sum(took.values()) * 1000:.0f} ms",),
    )


@verb(
    group=custody,
    examples=(
        f"strongroom custody move encrypted/claims --to {_SOFTHSM}",
        f"strongroom custody move --to {_SOFTHSM}",
    ),
)
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", "to", required=True, metavar="URI", help=f"The new master key, which is there: {_URI}.")
@click.option(
    "--to-password-file",
    "to_password",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=lambda _context, _option, value: value and password_source(value),
    help="Read the new master key's password or PIN from the first line of FILE.",
    metavar="FILE",
)
@click.option("--from", "from_", metavar="URI", help="The old master key, if it is not where the manifest says.")
@custody_password_option
@home_option
@password_option
def move(
    screen: Screen,
    *,
    directory: Path | None,
    to: str,
    to_password: Callable[[], bytes] | None,
    from_: str | None,
    custody_password: Callable[[], bytes] | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Put the data key of the dataset in DIRECTORY under another master key, or without DIRECTORY the home's identity.

    No data file is touched: the manifest is signed anew, as its next revision. Register it again with its policy; then
    nothing needs the old master key but older copies of the manifest.
    """
    from strongroom.envelope.custody import open_custody
    from strongroom.envelope.manifest import read_manifest, verify_manifest
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner

    place = Home(home)
    to_opens = opening(to, home=place, password=password, other=to_password)
    if directory is None:
        place.move_keys(to, password=password, new_password=to_opens)
        party = str(place.identity().party)
        screen.result({"party": party, "custody": to}, text=(f"{party}: its keys are under {to}",))
        return
    owner = Owner.at_home(place, password=password)
    old = from_ or verify_manifest(read_manifest(directory), owner=owner.key.party).custody
    moved = owner.move(
        directory,
        old=open_custody(old, password=opening(old, home=place, password=password, other=custody_password)),
        new=open_custody(to, password=to_opens),
    )
    screen.result(
        {
            "dataset": moved.dataset,
            "version": moved.version,
            "revision": moved.revision,
            "custody": moved.custody,
            "manifest": moved.digest,
        },
        text=(
            f"{moved.dataset} version {moved.version}, revision {moved.revision}: its key is at {moved.custody}",
            "register it again with its policy",
        ),
    )
