"""``strongroom witness``: follow a broker's ledger, and cry out if it ever contradicts what it showed before."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import verb
from strongroom.errors import TransportError, UsageError

_SHORTEST = 1.0


@verb(
    examples=(
        "strongroom witness https://broker.example:7443 --ledger-key broker.ledger-key --state witness/",
        "strongroom witness https://broker.example:7443 --ledger-key broker.ledger-key --state witness/ --once --json",
    )
)
@click.argument("url", metavar="URL")
@click.option(
    "--ledger-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The ledger's public key, got from a party that attested the broker.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Where the newest checkpoint is remembered, and every one of them recorded.",
)
@click.option("--every", type=float, default=60.0, show_default=True, metavar="SECONDS", help="How often to look.")
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--metrics", metavar="HOST:PORT", help="Show size, time and contradiction to Prometheus there.")
def witness(
    screen: Screen, *, url: str, ledger_key: Path, state: Path, every: float, once: bool, metrics: str | None
) -> None:
    """Follow the ledger of the broker at URL; exit code 4 if it ever contradicts what it showed before.

    Each checkpoint is verified with the ledger's key and proved to continue the last one, so a ledger that was
    rolled back, rewritten or forked is noticed by somebody who was never asked to look away. The broker is not
    trusted and not attested; a witness holds no secret and sees no entry. What it remembers, `memory.json`, serves
    as the --checkpoint of `strongroom audit`. A contradiction stands in the record with both signed checkpoints, and a
    witness that is started anew repeats it. A broker that does not answer is told and waited for.
    """
    from strongroom.ledger import CheckpointMemory, RolledBackError
    from strongroom.parties.auditor import read_ledger_key
    from strongroom.parties.witness import BrokerSource, Witness

    if every < _SHORTEST:
        raise UsageError(f"--every {every} is too often", hint="a second is the shortest")
    state.mkdir(parents=True, exist_ok=True)
    ledger = read_ledger_key(ledger_key)
    watcher = Witness(ledger=ledger, memory=CheckpointMemory(state / "memory.json"), record=state / "record.jsonl")
    shown = _Shown(metrics)
    source = BrokerSource(url)
    try:
        watcher.recall_contradiction()
        while True:
            try:
                sight = watcher.observe(source, now=datetime.now(UTC))
            except TransportError as error:
                if once:
                    raise
                screen.say(f"{datetime.now(UTC):%FT%TZ} no answer: {error.message}")
            else:
                shown.see(size=sight.size, at=sight.time.timestamp())
                if once:
                    facts = {"ledger": ledger.origin, "size": sight.size, "root": sight.root.hex()}
                    text = [f"{name:7} {value}" for name, value in facts.items()]
                    screen.result({**facts, "grown": sight.grown, "holds": True}, text=text)
                    return
                if sight.grown:
                    screen.say(f"{sight.time:%FT%TZ} {sight.size} entries ({sight.grown} new), they continue the last")
            time.sleep(every)
    except RolledBackError as error:
        shown.contradict()
        while metrics is not None and not once:  # a monitor must have the time to see it
            screen.say(f"THE LEDGER CONTRADICTS ITSELF: {error.message}")
            time.sleep(max(every, 60.0))
        raise
    finally:
        source.close()


class _Shown:
    """What a monitor may see, where one was asked for."""

    def __init__(self, listen: str | None) -> None:
        self._gauges = None
        if listen is None:
            return
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError(f"not an address to listen on: {listen!r}", hint="write HOST:PORT")
        registry = CollectorRegistry()
        self._gauges = (
            Gauge("strongroom_witness_ledger_entries", "entries of the ledger", registry=registry),
            Gauge("strongroom_witness_last_seen_seconds", "when it was last seen, since 1970", registry=registry),
            Gauge("strongroom_witness_contradiction", "1 after the ledger contradicted itself", registry=registry),
        )
        start_http_server(int(port), addr=host.strip("[]"), registry=registry)

    def see(self, *, size: int, at: float) -> None:
        if self._gauges is not None:
            self._gauges[0].set(size)
            self._gauges[1].set(at)

    def contradict(self) -> None:
        if self._gauges is not None:
            self._gauges[2].set(1)
