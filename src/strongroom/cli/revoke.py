"""``strongroom revoke``: withdraw a dataset; nothing more is released and running jobs stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, password_option, verb


@verb(examples=("strongroom revoke flights --reason 'contract ended'",))
@click.argument("dataset")
@click.option("--reason", required=True, help="Why; it stands in the ledger.")
@broker_option
@home_option
@password_option
def revoke(
    screen: Screen, *, dataset: str, reason: str, broker: str | None, home: Path, password: Callable[[], bytes]
) -> None:
    """Withdraw a dataset for good.

    The broker releases nothing more of it from this moment; leases end, and jobs that hold its keys wipe them and stop.
    """
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner

    place = Home(home)
    trusted = place.broker(broker)
    owner = Owner.at_home(place, password=password, broker=trusted)
    client = owner.attest_broker(trusted.url)
    try:
        owner.revoke(dataset, reason=reason, broker=client)
    finally:
        client.close()
    screen.result(
        {"dataset": dataset, "revoked": True, "reason": reason, "broker": trusted.url}, text=(f"revoked: {dataset}",)
    )
