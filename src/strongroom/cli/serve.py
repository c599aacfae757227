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
        "strongroom serve tumours.toml --hosts hosts.toml --directory /shared/jobs/tumours",
        "strongroom serve tumours.toml --cluster k8s --settings cluster.toml --detach",
    )
)
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.option(
    "--cluster",
    type=click.Choice(("process", "k8s")),
    default="process",
    show_default=True,
    help="Where it is placed: a process of this machine, or of one in --hosts, or a pod of a Kubernetes cluster.",
)
@click.option(
    "--platform",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The simulated platform that starts the endpoint on this machine; it protects nothing.",
)
@click.option(
    "--hosts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="HOSTS.toml",
    help="The machines to place it on, lent by `strongroom worker join` there.",
)
@click.option(
    "--settings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CLUSTER.toml",
    help="For --cluster k8s: the cluster's namespace, image, TEE flavour and volumes.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where its process works; by default ./NAME.serving.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where it listens on this machine, by default 127.0.0.1 and any free port.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Publish that callers reach it there, such as a load balancer's address.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="For --cluster k8s: leave once it serves; `strongroom job cancel` ends it.",
)
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
    cluster: str,
    platform: Path | None,
    hosts: Path | None,
    settings: Path | None,
    directory: Path | None,
    listen: str | None,
    address: str | None,
    detach: bool,
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
    from strongroom.cli.placing import open_host, open_hosts, read_settings
    from strongroom.cli.submit import Handed, tell_event
    from strongroom.jobs import load_job
    from strongroom.parties.analyst import Analyst
    from strongroom.parties.home import Home
    from strongroom.parties.serving import serve as start
    from strongroom.serving.publication import parse_address

    draft = load_job(job)
    if draft.kind != "serve":
        raise UsageError(f"the job is of kind {draft.kind}, must be of kind serve", hint="use strongroom submit")
    published = parse_address(address) if address is not None else None
    _expect_one_way(cluster, platform=platform, hosts=hosts, listen=listen, detach=detach)
    placed = read_settings(settings) if cluster == "k8s" else None
    place_here = (directory or Path(f"{draft.name}.serving")).absolute()
    here = None if hosts is not None else open_host(draft, settings=placed, platform=platform)
    place = Home(home)
    trusted = place.broker(broker)
    keys = place.open_keys(password)
    host = here or open_hosts(hosts, key=keys.signing, directory=place_here)
    analyst = Analyst(keys.signing, keys.kem, trust=trusted.trust(), memory=place.memory(trusted))
    if placed is None or placed.flavour == "simulated":
        screen.warn_simulated()
    client = analyst.attest_broker(trusted.url)
    try:
        client.enrol_member(place.identity_statement())
        endpoint = start(
            analyst,
            job,
            broker=client,
            host=host,
            directory=place_here,
            listen=listen or "127.0.0.1:0",
            address=published,
            leaving=detach,
            batch_rows=batch_rows,
            batch_wait=batch_wait,
            on_event=lambda name, facts: tell_event(screen, name, facts),
            remember=Handed(place, broker=trusted.url, settings=settings).remember,
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
                **({"job": endpoint.name} if endpoint.name else {}),
            },
            text=(
                f"{draft.name} is served at {where}",
                f"callers: strongroom proxy {target}",
                f"strongroom job cancel {endpoint.name} --settings {settings} ends it" if detach else "Ctrl-C ends it",
            ),
        )
        if detach:
            endpoint.leave()
            return
        ended = _ended_by_signal()
        try:
            while not ended.is_set() and endpoint.wait(_LOOK_SECONDS) is None:
                pass
        finally:
            endpoint.stop()
    finally:
        client.close()


def _expect_one_way(
    cluster: str, *, platform: Path | None, hosts: Path | None, listen: str | None, detach: bool
) -> None:
    """Raise UsageError where the options together say two things, or nothing."""
    if hosts is not None and (cluster == "k8s" or platform is not None):
        raise UsageError("an endpoint is placed in one way", hint="give --hosts, or --platform, or --cluster k8s")
    if listen is not None and (cluster == "k8s" or hosts is not None):
        raise UsageError("another host says where an endpoint listens", hint="leave --listen out, or give --address")
    if detach and cluster != "k8s":
        raise UsageError("an endpoint on this machine ends with its client", hint="use --cluster k8s")


def _ended_by_signal() -> threading.Event:
    """Return an event that is set when this process is asked to end."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked.set())
    return asked
