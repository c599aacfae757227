"""``strongroom proxy``: let ordinary HTTP clients on this machine ask an attested endpoint."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, password_option, verb


@verb(
    examples=(
        "strongroom proxy tumours.endpoint.json",
        "strongroom proxy tumours.endpoint.json --listen 127.0.0.1:8080 --program sha256:5f…",
    )
)
@click.argument("published", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="ENDPOINT.json")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="On loopback only.")
@click.option("--endpoint", metavar="HOST:PORT", help="Where the endpoint is, if not where the file says.")
@click.option("--program", metavar="DIGEST", help="The only program that may answer, sha256:….")
@click.option(
    "--measurement", "measurements", multiple=True, metavar="MEASUREMENT", help="What the endpoint must measure as."
)
@click.option(
    "--reattest",
    type=click.FloatRange(1, 600),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="After how long a connection is attested anew.",
)
@broker_option
@home_option
@password_option
def proxy(
    screen: Screen,
    *,
    published: Path,
    listen: str,
    endpoint: str | None,
    program: str | None,
    measurements: tuple[str, ...],
    reattest: float,
    broker: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Carry HTTP requests to an endpoint that proves what it is.

    Listens on loopback. Every connection to the endpoint is attested: fresh, for the published job, with the
    measurements that this home trusts. Where that fails, clients get 502 and the reason. Whoever reaches the port asks
    in the name of this home's party.
    """
    from strongroom.attestation.roles import Role
    from strongroom.parties.home import Home
    from strongroom.serving.client import Attester
    from strongroom.serving.proxy import Proxy
    from strongroom.serving.publication import Publication, parse_address

    found = Publication.read(published)
    if program is not None:
        found.expect_program(program)
    place = Home(home)
    trust = place.broker(broker).trust()
    attester = Attester(
        found,
        key=place.open_keys(password).signing,
        verifier=trust.verifier(),
        measurements=measurements or trust.measurements.get(Role.ENDPOINT, frozenset()),
        address=None if endpoint is None else parse_address(endpoint),
    )
    running = Proxy(attester, listen=parse_address(listen), reattest=reattest)
    url = f"http://{running.address[0]}:{running.address[1]}"
    screen.result(
        {
            "url": url,
            "model": found.spec.name,
            "program": found.spec.program_digest,
            "by": str(found.spec.analyst),
        },
        text=(
            f"{found.spec.name}, served by {found.spec.analyst} with program {found.spec.program_digest}",
            f"ask at {url}/v2/models/{found.spec.name}/infer or {url}/v1; Ctrl-C ends it",
        ),
    )
    signal.signal(signal.SIGTERM, lambda _number, _frame: running.close())
    signal.signal(signal.SIGINT, lambda _number, _frame: running.close())
    running.serve()
