"""``strongroom unseal``: contribute to opening the store of a broker that waits for its custodians."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import home_option, password_option, verb


@verb(examples=("strongroom unseal", "strongroom unseal https://broker.example:8443 --wait 120"))
@click.argument("broker", required=False, metavar="[BROKER]")
@click.option(
    "--wait",
    "patience",
    type=click.FloatRange(min=0, max=3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long whoever contributes last waits until the broker serves.",
)
@home_option
@password_option
def unseal(screen: Screen, *, broker: str | None, patience: float, home: Path, password: Callable[[], bytes]) -> None:
    """Contribute to opening the store of BROKER, a URL, once it is attested.

    A broker in a TEE without sealing keys (TDX) starts sealed: it serves when all of its custodians have contributed.
    What you contribute follows from your identity, goes to a broker that proves a measurement that you trust, and is
    of no use to anybody without all the others. `strongroom broker status` says who is missing.
    """
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner

    place = Home(home)
    trusted = place.broker(broker)
    owner = Owner.at_home(place, password=password, broker=trusted)
    state = owner.unseal(trusted.url, patience=patience)
    missing = [str(party) for party in state.missing]
    screen.result(
        {
            "broker": trusted.url,
            "founding": state.founding,
            "custodians": [str(party) for party in state.custodians],
            "missing": missing,
            "serving": not missing,
        },
        text=(
            f"contributed  {owner.key.party}",
            f"custodians   {', '.join(map(str, state.custodians))}",
            f"missing      {', '.join(missing)}" if missing else f"serving      {trusted.url}",
        ),
    )
