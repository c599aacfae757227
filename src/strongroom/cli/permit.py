"""``strongroom permit``: write, check and sign a data-use policy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import home_option, password_option, verb
from strongroom.errors import UsageError


@verb(
    examples=(
        "strongroom permit policy.toml --init --dataset flights --purpose delay-statistics \\",
        "    --analyst lab:6b1c... --program delays.py --measurements reference.json",
        "strongroom permit policy.toml --to policy.signed.json",
        "strongroom permit policy.toml --check",
    )
)
@click.argument("policy", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--to", "target", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Sign into FILE.")
@click.option("--check", is_flag=True, help="Only say whether POLICY is well formed; needs no password.")
@click.option("--init", is_flag=True, help="Write a new POLICY to edit, from the options below.")
@click.option("--dataset", help="With --init: the dataset that it is about.")
@click.option("--purpose", "purposes", multiple=True, help="With --init: a purpose that is permitted.")
@click.option(
    "--analyst", "analysts", multiple=True, metavar="PARTY", help="With --init: a party id, name:<32 hex digits>."
)
@click.option(
    "--program",
    "programs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --init: a program that you have read and approve, byte for byte.",
)
@click.option("--sql", is_flag=True, help="With --init: approve SQL that passes the checks, unread.")
@click.option(
    "--measurements",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --init: the measurements to accept, from `strongroom measure --json`.",
)
@click.option("--allow-simulated", is_flag=True, help="With --init: accept the simulated TEE, which protects nothing.")
@click.option(
    "--days", type=click.IntRange(min=1), default=90, show_default=True, help="With --init: days until it expires."
)
@home_option
@password_option
def permit(
    screen: Screen,
    *,
    policy: Path,
    target: Path | None,
    check: bool,
    init: bool,
    dataset: str | None,
    purposes: tuple[str, ...],
    analysts: tuple[str, ...],
    programs: tuple[Path, ...],
    sql: bool,
    measurements: Path | None,
    allow_simulated: bool,
    days: int,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Write, check or sign a data-use policy.

    POLICY is a TOML file.
    What a policy does not name, it denies. Signed, it goes to the broker with the dataset: see `strongroom register`.
    """
    from strongroom.digests import file_digest
    from strongroom.envelope.staging import replace_file
    from strongroom.parties.brokers import read_measurements
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner
    from strongroom.policy import parse_policy_toml, policy_digest, policy_template
    from strongroom.statements import PartyId

    if sum((init, check, target is not None)) != 1:
        raise UsageError("say what to do with the policy", hint="give one of --init, --check or --to FILE")
    if init:
        if policy.exists():
            raise UsageError(f"{policy} exists already", hint="a policy is never overwritten; name another file")
        if dataset is None:
            raise UsageError("a new policy needs a dataset", hint="add --dataset NAME")
        expected = read_measurements((), files=[measurements] if measurements else [])
        text = policy_template(
            dataset=dataset,
            owner=Home(home).identity().party,
            analysts=[PartyId.parse(text) for text in analysts],
            purposes=purposes,
            expires=(datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0),
            approved=[file_digest(program) for program in programs],
            sql=sql,
            measurements={role.value: sorted(texts) for role, texts in expected.items() if role.value != "broker"},
            allow_simulated=allow_simulated,
        )
        replace_file(policy, text.encode())
        if allow_simulated:
            screen.warn_simulated()
        screen.result({"policy": str(policy), "dataset": dataset}, text=(f"wrote {policy}; edit it, then sign it",))
        return
    text = _read(policy)
    parsed = parse_policy_toml(text)
    facts = {
        "policy": str(policy),
        "dataset": parsed.dataset,
        "version": parsed.version,
        "digest": policy_digest(parsed),
        "expires": parsed.expires.isoformat(),
        "signed": str(target) if target else None,
    }
    if target is not None:
        statement = Owner.at_home(Home(home), password=password).permit(text)
        replace_file(target, statement.encode().encode())
    if parsed.expires <= datetime.now(UTC):
        screen.say(f"warning: it expired at {parsed.expires:%FT%TZ} and permits nothing")
    done = f"signed into {target}" if target else "well formed"
    screen.result(
        facts, text=(f"{parsed.dataset}, policy version {parsed.version}: {done}", f"digest {facts['digest']}")
    )


def _read(policy: Path) -> str:
    try:
        return policy.read_text()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{policy} is not text", hint="a policy is a TOML file; --init writes one to start from"
        ) from error
