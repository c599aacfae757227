"""``strongroom broker``: start one, keep copies of its store, and say which ones this party trusts."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import click

from strongroom.cli.broker_store import backup, restore
from strongroom.cli.screen import Screen
from strongroom.cli.verb import VerbGroup, home_option, verb
from strongroom.errors import TransportError, UsageError

_LOOK_SECONDS = 1.0


@click.group(cls=VerbGroup)
def broker() -> None:
    """Start a broker, keep copies of its store, or say which brokers this party trusts."""


broker.add_command(backup)
broker.add_command(restore)


@verb(
    name="start",
    group=broker,
    examples=(
        "strongroom broker start --platform platform/ --store store/",
        "strongroom broker start --platform platform/ --store store/ --listen 127.0.0.1:7443 --json",
        "strongroom broker start --platform platform/ --store store/ --tee tdx --custodian airline:0123...",
        "strongroom broker start --platform platform/ --store 'postgresql+psycopg://me@db/store?passfile=pgpass'",
    ),
)
@click.option(
    "--platform",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The simulated platform that measures and starts it, made if need be; it protects nothing.",
)
@click.option(
    "--store",
    required=True,
    metavar="DIR|URL",
    help="Where its sealed records are kept; the host may read them and learns nothing. A directory, or "
    "postgresql+psycopg://NAME@HOST/DATABASE?passfile=FILE.",
)
@click.option("--standby", is_flag=True, help="Wait while another broker serves from this store, then take over.")
@click.option(
    "--from",
    "source",
    default="",
    metavar="URL",
    help="With --standby and custodians: the serving broker, which attests this one and hands its store's key over.",
)
@click.option(
    "--custodian",
    "custodians",
    multiple=True,
    metavar="PARTY",
    help="Where the TEE has no sealing key (tdx): a party, as `strongroom identity` prints it, without whom the store "
    "does not open; once for each owner that will register data. More can be named at a later start, none be dropped.",
)
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="Port 0 takes a free one."
)
@click.option(
    "--metrics",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Where /metrics, /healthz and /readyz answer over plain HTTP; counts only, nothing secret.",
)
@click.option("--tee", type=click.Choice(("sgx", "tdx")), default="sgx", show_default=True, help="The kind of quotes.")
def _start(
    screen: Screen,
    *,
    platform: Path,
    store: str,
    standby: bool,
    source: str,
    custodians: tuple[str, ...],
    listen: str,
    metrics: str,
    tee: str,
) -> int:
    """Start a broker and keep it until Ctrl-C.

    Prints its address and measurement as soon as it answers; where it has custodians it then waits for each of them to
    run `strongroom unseal`. Inside real TEEs the broker is started by the image, as
    `python -m strongroom.broker`.
    """
    from strongroom.parties.operator import Operator
    from strongroom.statements import PartyId

    screen.warn_simulated()
    operator = Operator(platform, tee="tdx" if tee == "tdx" else "sgx")
    log = platform / "broker.log"
    running = operator.start_broker(
        store,
        standby=standby,
        source=source,
        custodians=[PartyId.parse(text) for text in custodians],
        listen=listen,
        metrics=metrics,
        log=log,
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # A shell lets what it starts in the background ignore SIGINT.
        signal.signal(number, _interrupt)
    try:
        screen.result(
            {
                "url": running.url,
                "measurement": running.measurement,
                "metrics": running.metrics,
                "platform": str(platform),
                "state": "sealed" if running.custodians else "serving",
                "custodians": list(running.custodians),
                "simulated": True,
            },
            text=(
                f"broker       {running.url}",
                f"measurement  {running.measurement}",
                f"metrics      {running.metrics}",
                *(f"sealed until {party} has contributed: strongroom unseal" for party in running.custodians),
            ),
        )
        status = 0
        while (ended := running.process.poll()) is None:
            if running.custodians:
                with contextlib.suppress(TransportError):
                    running.wait_unsealed(_LOOK_SECONDS)
                    screen.say("its custodians have unsealed it: it serves")
            else:
                time.sleep(_LOOK_SECONDS)
            operator.refresh_collateral()
        status = ended
        screen.say(f"the broker ended with code {status}; see {platform / 'broker.log'}")
    except KeyboardInterrupt:
        screen.say("stopped")
        status = 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # Told once is enough; the broker is ended politely now.
            signal.signal(number, signal.SIG_IGN)
        running.stop()
    return 1 if status else 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


@verb(
    name="trust",
    group=broker,
    examples=(
        "strongroom broker trust https://broker.example:7443 --measurements reference.json --collateral intel.json",
        "strongroom broker trust https://127.0.0.1:7443 --measurements reference.json --simulated-platform platform/",
    ),
)
@click.argument("url")
@click.option(
    "--measurement",
    "single",
    multiple=True,
    metavar="ROLE=TEE:HEX",
    help="A measurement that the role may show; repeat it for more roles, or several of one role during an upgrade.",
)
@click.option(
    "--measurements",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What `strongroom measure --json` printed; repeat it for both releases during an upgrade.",
)
@click.option(
    "--collateral",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Intel's collateral for the broker's platform (QuoteCollateralV3 in JSON), as a PCCS gives it.",
)
@click.option(
    "--simulated-platform",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Accept this simulated platform's root instead of Intel's. It protects nothing.",
)
@home_option
def _trust(
    screen: Screen,
    *,
    url: str,
    single: tuple[str, ...],
    files: tuple[Path, ...],
    collateral: Path | None,
    simulated_platform: Path | None,
    home: Path,
) -> None:
    """Trust the broker at URL, and what runs on its releases, if they prove these measurements."""
    from strongroom.parties.brokers import (
        IntelVendor,
        SimulatedVendor,
        TrustedBroker,
        parse_broker_url,
        read_measurements,
    )
    from strongroom.parties.home import Home

    vendor: IntelVendor | SimulatedVendor
    if simulated_platform is not None and collateral is None:
        vendor = SimulatedVendor.pin(simulated_platform)
        screen.warn_simulated()
    elif collateral is not None and simulated_platform is None:
        vendor = IntelVendor(collateral=collateral.absolute())
    else:
        raise UsageError(
            "who shall vouch for the broker: Intel, or a simulated platform?",
            hint="give either --collateral FILE or --simulated-platform DIR",
        )
    trusted = TrustedBroker(
        url=parse_broker_url(url), measurements=read_measurements(single, files=files), vendor=vendor
    )
    Home(home).trust(trusted)
    screen.result(trusted.to_json(), text=(f"trusted: {trusted.url}",))


@verb(
    name="status",
    group=broker,
    examples=("strongroom broker status", "strongroom broker status https://broker.example:8443 --json"),
)
@click.argument("url", required=False, metavar="[URL]")
@home_option
def _status(screen: Screen, *, url: str | None, home: Path) -> None:
    """Attest the broker at URL and say whether it serves, or is sealed and waits for which custodians."""
    from strongroom.parties.home import Home
    from strongroom.parties.unsealing import look_at_broker

    place = Home(home)
    trusted = place.broker(url)
    found = look_at_broker(trusted.url, trust=trusted.trust(), memory=place.memory(trusted))
    missing = (f"missing      {party}" for party in found.missing)
    screen.result(
        found.to_json(),
        text=(
            f"broker       {found.url}",
            f"state        {'sealed' if found.sealed else 'serving'}",
            f"measurement  {found.measurement}",
            *(missing if found.sealed else (f"ledger       {found.entries} entries",)),
        ),
    )


@verb(name="forget", group=broker, examples=("strongroom broker forget https://broker.example:7443",))
@click.argument("url")
@home_option
def _forget(screen: Screen, *, url: str, home: Path) -> None:
    """Trust the broker at URL no longer; what is remembered of its ledger stays."""
    from strongroom.parties.home import Home

    Home(home).forget(url)
    screen.result({"forgotten": url}, text=(f"forgotten: {url}",))


@verb(name="list", group=broker, examples=("strongroom broker list", "strongroom broker list --json"))
@home_option
def _list(screen: Screen, *, home: Path) -> None:
    """List the brokers that this party trusts."""
    from strongroom.parties.home import Home

    known = Home(home).brokers()
    rows = [
        (one.url, "simulated" if one.simulated else "intel", role.value, text)
        for one in known
        for role, texts in one.measurements.items()
        for text in sorted(texts)
    ]
    table = screen.table("Trusted brokers", ("url", "vendor", "role", "measurement"), rows)
    screen.result(
        {"brokers": [one.to_json() for one in known]},
        text=(table,) if rows else ("no broker is trusted yet: strongroom broker trust URL --measurement MEASUREMENT",),
    )
