"""``strongroom measure``: say what a correct broker, driver, worker and egress measure."""

from __future__ import annotations

from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import verb


@verb(
    examples=(
        "strongroom measure",
        "strongroom measure --json > reference.json",
        "strongroom measure broker driver --tee tdx",
    )
)
@click.argument("roles", nargs=-1, metavar="[ROLE]...")
@click.option("--tee", type=click.Choice(("sgx", "tdx")), default="sgx", show_default=True, help="The kind of TEE.")
@click.option(
    "--package",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="Measure the package in DIR instead of the one that runs.",
)
def measure(screen: Screen, *, roles: tuple[str, ...], tee: str, package: Path | None) -> None:
    """Print the measurements of broker, driver, worker and egress.

    Taken as the simulated TEE takes them, they are the reference values that owners put into policies and
    clients into their trust settings. One changed byte of the package, the interpreter or the entry point changes
    them.
    """
    from strongroom.attestation.roles import Role
    from strongroom.attestation.simulated.measuring import installed_package, read_tree
    from strongroom.attestation.simulated.measuring import measure as measure_tree

    wanted = [Role.parse(role) for role in roles] or [role for role in Role if role.attests]
    tree = read_tree(package or installed_package())
    found = {role.value: measure_tree(role, tree).text(tee) for role in wanted}
    screen.warn_simulated()
    screen.result(
        {"tee": tee, "simulated": True, "measurements": found},
        text=[f"{role:8} {measurement}" for role, measurement in found.items()],
    )
