"""``strongroom approve``: list the outputs that wait for this owner, or approve one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, password_option, verb
from strongroom.errors import UsageError


@verb(examples=("strongroom approve", "strongroom approve 3f9a... --yes"))
@click.argument("output", required=False)
@click.option("--yes", is_flag=True, help="Do not ask again.")
@broker_option
@home_option
@password_option
def approve(
    screen: Screen,
    *,
    output: str | None,
    yes: bool,
    broker: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """List the outputs that wait for approval, or approve one.

    An approval says yes to exactly the bytes whose digest is shown, and stands in the ledger.
    """
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner

    place = Home(home)
    trusted = place.broker(broker)
    owner = Owner.at_home(place, password=password, broker=trusted)
    client = owner.attest_broker(trusted.url)
    try:
        waiting = owner.pending(broker=client)
        if output is None:
            columns = ("output", "job", "analyst", "purpose", "recipients", "digest")
            rows = [
                (one.output_id, one.job_id, one.analyst, one.purpose, ", ".join(one.recipients), one.digest)
                for one in waiting
            ]
            facts = [
                {**dict(zip(columns, row, strict=True)), "program": one.program, "details": dict(one.details)}
                for one, row in zip(waiting, rows, strict=True)
            ]
            screen.result(
                {"pending": facts},
                text=[line for fact in facts for line in _tell(fact)] or ("nothing waits for you",),
            )
            return
        chosen = next((one for one in waiting if one.output_id == output), None)
        if chosen is None:
            raise UsageError(
                f"no output {output[:80]!r} waits for this owner", hint="`strongroom approve` lists those that do"
            )
        if not yes and not click.confirm(
            f"Approve output {output} of job {chosen.job_id} ({chosen.digest})?", err=True
        ):
            raise UsageError("not approved", hint="run it again and say yes, or give --yes")
        owner.approve(chosen, broker=client)
    finally:
        client.close()
    screen.result({"approved": chosen.output_id, "digest": chosen.digest}, text=(f"approved: {chosen.output_id}",))


def _tell(waiting: Mapping[str, Any]) -> Iterator[str]:
    """Say what waits, line by line: ids and digests are there to be copied and compared, so nothing cuts them."""
    yield f"{waiting['output']} waits for your approval"
    for name in ("analyst", "purpose", "program", "recipients", "digest"):
        yield f"  {name:{len('recipients')}}  {waiting[name]}"
    for name, fact in waiting["details"].items():
        if fact not in ("", None, [], {}):
            yield f"  {name:{len('recipients')}}  {', '.join(map(str, fact)) if isinstance(fact, list) else fact}"
    yield f"  strongroom approve {waiting['output']}"
