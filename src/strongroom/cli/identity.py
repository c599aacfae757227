"""``strongroom identity``: make this party's keys, or say who it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import home_option, new_password_option, verb
from strongroom.errors import UsageError

ROLES = ("owner", "analyst", "auditor")


@verb(
    examples=(
        "strongroom identity --name clinic --role owner",
        "strongroom identity --name clinic --role owner \\",
        "    --custody 'pkcs11:token=clinic;object=master?module-path=/usr/lib/softhsm/libsofthsm2.so'",
        "strongroom identity --export clinic.identity.json",
        "strongroom identity --json",
    )
)
@click.option("--name", help="Make an identity with this name: small letters, digits and hyphens.")
@click.option("--role", type=click.Choice(ROLES), help="What the new party does here.")
@click.option(
    "--export",
    "export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the public identity, signed, to FILE; give it to those who shall know you.",
)
@click.option(
    "--custody",
    "home_custody",
    metavar="URI",
    help="Seal the new identity under the master key at URI, from `strongroom custody create`, instead of a new file.",
)
@home_option
@new_password_option
def identity(
    screen: Screen,
    *,
    name: str | None,
    role: str | None,
    export: Path | None,
    home_custody: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Make this party's keys, or say who it is.

    With --name and --role, makes a master key and an identity in the home directory, sealed by a password; with
    --custody, an identity sealed by a master key that you have in an HSM or a key service. Without, prints the party
    id: the name for people, and the fingerprint of the signing key, which alone decides.
    """
    from strongroom.parties.home import Home

    place = Home(home)
    if name is not None:
        if role is None:
            raise UsageError("a new identity needs a role", hint=f"add --role: one of {', '.join(ROLES)}")
        place.create_identity(name, role=role, password=password, now=datetime.now(UTC), custody=home_custody)
        beside = f"the master key at {home_custody}" if home_custody else "the password"
        screen.say(f"made an identity in {home}; keep a copy of that directory, and {beside}")
    known = place.identity()
    if export is not None:
        place.export_identity(export)
        screen.say(f"wrote the public identity to {export}")
    screen.result(
        {
            "party": str(known.party),
            "role": known.role,
            "created": known.created.isoformat(),
            "home": str(home),
            "custody": place.default_custody,
            "exported": str(export) if export else None,
        },
        text=(str(known.party),),
    )
