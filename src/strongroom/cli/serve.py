"""``strongroom serve``: place an attested endpoint for a model, hand it the job, and follow it until it is ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, password_option, verb
from strongroom.errors import UsageError

_LOOK_SECONDS = 0.5


@verb(
    examples=(
        "strongroom serve tumours.toml --platform platform/ --publish tumours.endpoint.json",
        "strongroom serve tumours.toml --platform platform/ --listen 10.0.0.5:9000",
    )
)
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.option(
    "--platform",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The simulated platform that starts the endpoint on this machine; it protects nothing.",
)
@click.option("--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="Where callers reach it.")
@click.option(
    "--publish",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what callers need (the signed job and the address) here; by default ./NAME.endpoint.json.",
)
@click.option(
    "--batch-rows", type=click.IntRange(1, 4096), default=256, show_default=True, help="Most rows of a batch."
)
@click.option(
    "--batch-wait",
    type=click.FloatRange(0, 1),
    default=0.002,
    show_default=True,
    metavar="SECONDS",
    help="How long a batch waits for requests that are on their way.",
)
@broker_option
@home_option
@password_option
def serve(
    screen: Screen,
    *,
    job: Path,
    platform: Path | None,
    listen: str,
    publish: Path | None,
    batch_rows: int,
    batch_wait: float,
    broker: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Serve a model to the callers that its owners permit.

    Signs JOB.toml, a job of kind serve, and submits it; starts the endpoint, attests it, hands the job over, and writes
    what callers need. Ends on Ctrl-C or SIGTERM: requests that were begun are answered first.
    """
    from strongroom.cli.placing import open_host
    from strongroom.cli.submit import tell_event
    from strongroom.jobs import load_job
    from strongroom.jobs.launch import JobHost
    from strongroom.parties.analyst import Analyst
    from strongroom.parties.home import Home
    from strongroom.parties.serving import serve as start

    draft = load_job(job)
    if draft.kind != "serve":
        raise UsageError(f"the job is of kind {draft.kind}, must be of kind serve", hint="use strongroom submit")
    host = open_host(draft, settings=None, platform=platform)
    if isinstance(host, JobHost):
        raise UsageError("an endpoint is placed on this machine")
    place = Home(home)
    trusted = place.broker(broker)
    keys = place.open_keys(password)
    analyst = Analyst(keys.signing, keys.kem, trust=trusted.trust(), memory=place.memory(trusted))
    screen.warn_simulated()
    client = analyst.attest_broker(trusted.url)
    try:
        client.enrol_member(place.identity_statement())
        endpoint = start(
            analyst,
            job,
            broker=client,
            host=host,
            directory=Path(f"{draft.name}.serving").absolute(),
            listen=listen,
            batch_rows=batch_rows,
            batch_wait=batch_wait,
            on_event=lambda name, facts: tell_event(screen, name, facts),
        )
        target = publish or Path(f"{draft.name}.endpoint.json")
        target.write_bytes(endpoint.publication.encode())
        where = f"{endpoint.publication.address[0]}:{endpoint.publication.address[1]}"
        screen.result(
            {
                "model": draft.name,
                "address": where,
                "published": str(target),
                "digest": endpoint.publication.digest.hex(),
                "simulated": endpoint.simulated,
            },
            text=(
                f"{draft.name} is served at {where}",
                f"callers: strongroom proxy {target}",
                "Ctrl-C ends it",
            ),
        )
        ended = _ended_by_signal()
        try:
            while not ended.is_set() and endpoint.wait(_LOOK_SECONDS) is None:
                pass
        finally:
            endpoint.stop()
    finally:
        client.close()


def _ended_by_signal() -> threading.Event:
    """Return an event that is set when this process is asked to end."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked.set())
    return asked
