"""``strongroom register``: enrol an encrypted dataset and its policy with an attested broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import (
    broker_option,
    custody_password_option,
    home_option,
    opening,
    password_option,
    verb,
)
from strongroom.errors import UsageError


@verb(
    examples=(
        "strongroom register encrypted/flights --policy policy.signed.json",
        "strongroom register --policy policy-2.signed.json",
        "strongroom register train.job/results/model-1a2b --output 7c1e.../model --policy model.signed.json",
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
@click.option(
    "--output",
    metavar="JOB/NAME",
    help="DIRECTORY holds this output of a job, which stays inside: make it a dataset of yours.",
)
@click.option(
    "--custody",
    "custody_uri",
    metavar="URI",
    help="Where the master key is reached from here, if not where the manifest says.",
)
@custody_password_option
@broker_option
@home_option
@password_option
def register(
    screen: Screen,
    *,
    directory: Path | None,
    policy_file: Path,
    output: str | None,
    custody_uri: str | None,
    custody_password: Callable[[], bytes] | None,
    broker: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Enrol an encrypted dataset and its policy with a broker.

    DIRECTORY is what `strongroom encrypt` wrote; without it, a registered policy is replaced by a newer one.
    The broker is attested first: the data key leaves this machine only sealed to a broker that proved its measurement.
    """
    from strongroom.envelope.manifest import read_manifest, verify_manifest
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner
    from strongroom.policy import policy_digest, verify_policy
    from strongroom.statements import Statement

    if output is not None and directory is None:
        raise UsageError("an output needs its directory", hint="the job's report says where its outputs lie")
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
        if output is not None and directory is not None:
            owner.adopt(output, directory, policy=policy, broker=client)
        elif directory is None:
            owner.update_policy(policy, broker=client)
        else:
            uri = custody_uri or verify_manifest(read_manifest(directory), owner=owner.key.party).custody
            opens = opening(uri, home=place, password=password, other=custody_password)
            owner.register(directory, broker=client, policy=policy, password=opens, custody=custody_uri)
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
