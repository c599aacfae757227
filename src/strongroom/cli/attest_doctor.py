"""``strongroom attest doctor``: look over what attestation needs on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from strongroom.cli.screen import Screen, paint
from strongroom.cli.verb import home_option, verb


@verb(
    name="doctor",
    examples=(
        "strongroom attest doctor",
        "strongroom attest doctor --collateral collateral/ --memory memory.json --json",
        "strongroom attest doctor --service https://pccs.example:8081 --offline",
    ),
)
@click.option(
    "--collateral",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A folder of collateral: how long each set is still good.",
)
@click.option(
    "--memory",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A verifier's collateral memory: whether the clock was set back since.",
)
@click.option("--service", metavar="URL", help="A collateral service: whether it answers.")
@click.option("--proxy", metavar="URL", default="", help="The HTTP proxy to reach it through.")
@click.option("--offline", is_flag=True, help="Do not talk to the brokers that this party trusts.")
@home_option
def doctor(
    screen: Screen,
    *,
    collateral: Path | None,
    memory: Path | None,
    service: str | None,
    proxy: str,
    offline: bool,
    home: Path,
) -> int:
    """Check TEE interfaces, collateral, clock, brokers and versions; say what to do about whatever is wrong.

    Each line is ok, warn or fail. Exit code 1 if one failed, else 0. Nothing is changed.
    """
    from strongroom.parties import checkup
    from strongroom.parties.home import Home

    now = datetime.now(UTC)
    found = [*checkup.check_versions(), *checkup.check_interfaces(), *checkup.check_clock(now=now, memory=memory)]
    if collateral is not None:
        found += checkup.check_collateral(collateral, now=now)
    if service is not None:
        found += checkup.check_service(service, proxy=proxy, now=now)
    if not offline:
        found += checkup.check_brokers(Home(home))
    said = checkup.summarise(tuple(found))
    lines = []
    for one in found:
        lines.append(f"{one.state.value:5} {one.name:11} {one.found}")
        lines += [f"      what to do: {one.remedy}"] if one.remedy else []
    lines.append(f"{said['ok']} ok, {said['warn']} warn, {said['fail']} fail")
    screen.result(said, text=map(paint, lines))
    return 1 if said["fail"] else 0
