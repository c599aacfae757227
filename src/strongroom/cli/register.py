"""``strongroom register``: enrol an encrypted dataset and its policy with an attested broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, password_option, verb


@verb(
    examples=(
        "strongroom register encrypted/flights --policy policy.signed.json",
        "strongroom register --policy policy-2.signed.json",
    )
)
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--policy",
    "policy_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The signed policy, from `strongroom permit --to`.",
)
@broker_option
@home_option
@password_option
def register(
    screen: Screen,
    *,
    directory: Path | None,
    policy_file: Path,
    broker: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Enrol an encrypted dataset and its policy with a broker.

    DIRECTORY is what `strongroom encrypt` wrote; without it, a registered policy is replaced by a newer one.
    The broker is attested first: the data key leaves this machine only sealed to a broker that proved its measurement.
    """
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner
    from strongroom.policy import policy_digest, verify_policy
    from strongroom.statements import Statement

    place = Home(home)
    trusted = place.broker(broker)
    policy = Statement.decode(policy_file.read_bytes())
    permitted = verify_policy(policy)
    owner = Owner.at_home(place, password=password, broker=trusted)
    if trusted.simulated:
        screen.warn_simulated()
    client = owner.attest_broker(trusted.url)
    try:
        client.enrol_member(place.identity_statement())
        if directory is None:
            owner.update_policy(policy, broker=client)
        else:
            owner.register(directory, broker=client, policy=policy, password=password)
    finally:
        client.close()
    what = "policy replaced" if directory is None else "registered"
    screen.result(
        {
            "dataset": permitted.dataset,
            "policy_version": permitted.version,
            "policy": policy_digest(permitted),
            "broker": trusted.url,
            "simulated": trusted.simulated,
        },
        text=(f"{what}: {permitted.dataset}, policy version {permitted.version}, at {trusted.url}",),
    )
