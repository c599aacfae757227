"""Start the broker: the measured entry of role ``broker`` (spec/4-release.md §4.1).

Prints one JSON line when it is ready. Nothing secret is in its arguments or environment, and it has no plaintext mode.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import uvloop

from strongroom.attestation.appraisal import AppraisalPolicy, Verifier
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.providers import detect
from strongroom.attestation.tee import Tee, TeeCapabilityError
from strongroom.broker.book import Book
from strongroom.broker.clock import SteadyClock, last_written
from strongroom.broker.desk import Desk
from strongroom.broker.handover import ask_for_key
from strongroom.broker.ledger_store import METADATA
from strongroom.broker.load import Load
from strongroom.broker.monitor import Monitor
from strongroom.broker.opening import open_store
from strongroom.broker.recent_collateral import RecentCollateral
from strongroom.broker.server import reserve, serve
from strongroom.broker.service import Service
from strongroom.broker.sessions import Nonces, Sessions
from strongroom.broker.state import State
from strongroom.broker.tally import Tally
from strongroom.broker.vigil import Vigil
from strongroom.catalog.store import ClosedStore, MonotonicCounter, RolledBackStoreError, Store, StoreInUseError
from strongroom.errors import StrongroomError, UsageError
from strongroom.ledger.entry import EntryKind
from strongroom.statements import PartyId, StatementError

COUNTER = "store"
REFUSED_STARTS = "refused-starts"
NOTED_STARTS = "noted-starts"
MAX_PORT = 65_535
STANDBY_SECONDS = 0.5


class MemoryOfParties:
    """Stands in for a counter where there is none: a rollback is then noticed by the parties' checkpoints alone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> int:
        """Return the store's own epoch."""
        return self._store.head.epoch

    def advance_to(self, value: int, /) -> None:
        """Do nothing: the store has the value already."""


def find_counter(tee: Tee, store: Store) -> tuple[MonotonicCounter, str]:
    """Return the platform's counter, or what stands in for it, and how the ledger shall name it."""
    try:
        return tee.counter(COUNTER), "platform counter"
    except TeeCapabilityError:
        return MemoryOfParties(store), "checkpoints remembered by the parties"


def count_refused_start(tee: Tee) -> None:
    """Count on the platform that this broker would not start, since the store it was given cannot be written to."""
    with contextlib.suppress(TeeCapabilityError):
        refused = tee.counter(REFUSED_STARTS)
        refused.advance_to(refused.read() + 1)


async def note_refused_starts(tee: Tee, desk: Desk) -> None:
    """Write into the ledger how often a broker was given an older store since the last good start.

    The entry is written before the platform notes it, so an interruption repeats it and never loses it.
    """
    with contextlib.suppress(TeeCapabilityError):
        refused, noted = tee.counter(REFUSED_STARTS).read(), tee.counter(NOTED_STARTS)
        if (attempts := refused - noted.read()) > 0:
            reason = f"an old store was presented {attempts} time(s), and the broker refused to start from it"
            await desk.write(EntryKind.ROLLBACK, {"attempts": attempts}, reasons=[reason], administrative=True)
            noted.advance_to(refused)


async def hold_store(place: str, *, standby: bool, stop: asyncio.Event) -> ClosedStore | None:
    """Return the store at ``place``; with ``standby``, once no other broker serves from it, or None if told to stop."""
    while not stop.is_set():
        try:
            return ClosedStore.hold(place, tables=[METADATA])
        except StoreInUseError:
            if not standby:
                raise
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), STANDBY_SECONDS)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator chose; nothing in it is secret or believed more than the operator is."""

    place: str
    standby: bool
    source: str
    custodians: tuple[PartyId, ...]
    listen: tuple[str, int]
    metrics: tuple[str, int]


async def run(settings: Settings) -> None:
    """Open the store, write the start into the ledger, and serve until told to stop or the store fails."""
    monitor = Monitor(*settings.metrics)  # The operator sees a broker that waits for its store, too.
    tee = detect()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    handed = await asyncio.to_thread(ask_for_key, settings.source, tee=tee) if settings.source else None
    closed = await hold_store(settings.place, standby=settings.standby, stop=stop)
    if closed is None:
        return
    held, tally = None, Tally()
    try:
        held = reserve(*settings.listen)
        address = held.getsockname()[:2]

        def watch(vigil: Vigil) -> None:
            monitor.vigil = vigil
            say("sealed", address, monitor, custodians=[str(party) for party in vigil.custodians])

        opened = await open_store(
            closed, tee=tee, named=settings.custodians, handed=handed, held=held, watch=watch, stop=stop
        )
        if opened is None:
            return
        store = opened.store
        state = State.load(store.load())
        counter, protection = find_counter(tee, store)
        try:
            store.check_epoch(counter)
        except RolledBackStoreError:
            count_refused_start(tee)
            raise
        keys = opened.choose_keys(state.keys, now=datetime.now(UTC))
        memory = CollateralMemory.decode(state.collateral)
        collateral = RecentCollateral(tee.collateral_source(), clock=time.monotonic)
        book = Book(
            store=store,
            key=keys.ledger,
            origin=keys.origin,
            counter=counter,
            tally=tally,
            load=Load(passed=time.monotonic, spent=time.process_time),
        )
        opened.verify_ledger(book.public, book.log)
        opened = opened.seal_anew(book.public)
        desk = Desk(
            keys=keys,
            state=state,
            book=book,
            nonces=Nonces(),
            sessions=Sessions(),
            verifier=Verifier(tee.anchor(), collateral, memory=memory, policy=AppraisalPolicy.leaving_tcb_to_caller()),
            collateral=collateral,
            memory=memory,
            tee=tee,
            keeping=opened.keeping,
            tally=tally,
            clock=SteadyClock(wall=lambda: datetime.now(UTC), passed=time.monotonic, after=last_written(book.log)),
        )
        await desk.write(
            EntryKind.START,
            {
                "measurement": tee.own_measurement,
                "simulated": tee.simulated,
                "rollback": protection,
                **opened.keeping.to_facts(),
            },
            changes=() if keys is state.keys else (keys.to_change(),),
            administrative=True,
        )
        await note_refused_starts(tee, desk)
        serving = await serve(Service(desk), keys, held=held, stop=stop)
        gc.freeze()  # What was loaded to start with stays; looking through it again and again finds nothing.
        monitor.desk, monitor.vigil = desk, None
        say("ready", address, monitor)
        waiting: set[asyncio.Future[Any]] = {serving, book.failure}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await serving
        await book.close()
        if book.failure.done():
            raise book.failure.result()
    finally:
        if held is not None:
            held.close()
        closed.close()


def say(event: str, address: tuple[str, int], monitor: Monitor, **more: object) -> None:
    """Tell whoever started this broker how far it is, in one line of JSON."""
    host, port = address
    print(json.dumps({"event": event, "host": host, "port": port, "metrics": monitor.port, **more}), flush=True)  # noqa: T201


def parse_address(option: str, text: str) -> tuple[str, int]:
    """Return the host and port given with ``option``; raise UsageError unless ``text`` has both."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise UsageError(f"{option} is host:port, got {text!r}", hint="for example 127.0.0.1:8443")
    return host.strip("[]"), int(port)


def parse_custodian(text: str) -> PartyId:
    """Return the party named with ``--custodian``; raise UsageError unless it is one."""
    try:
        return PartyId.parse(text)
    except StatementError as error:
        raise UsageError(f"--custodian is a party, got {text[:80]!r}", hint=error.hint) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the broker and return its exit code."""
    parser = argparse.ArgumentParser(prog="strongroom-broker", description="Release keys to attested workloads.")
    parser.add_argument("--store", required=True, help="the sealed store: a directory, or postgresql+psycopg://...")
    parser.add_argument("--metrics", default="127.0.0.1:0", help="host:port where the operator looks, over plain HTTP")
    parser.add_argument("--standby", action="store_true", help="wait while another broker serves from the store")
    parser.add_argument(
        "--from", dest="source", default="", help="https://host:port of a broker that hands its key over"
    )
    parser.add_argument(
        "--custodian",
        dest="custodians",
        action="append",
        default=[],
        help="a party without whom the store does not open, where the TEE has no sealing key; once for each",
    )
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port; port 0 takes a free one")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    try:
        settings = Settings(
            place=arguments.store,
            standby=arguments.standby,
            source=arguments.source,
            custodians=tuple(parse_custodian(text) for text in arguments.custodians),
            listen=parse_address("--listen", arguments.listen),
            metrics=parse_address("--metrics", arguments.metrics),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except StrongroomError as error:
        said = {"event": "failed", "kind": error.kind, "message": error.message, "hint": error.hint}
        print(json.dumps(said), flush=True)  # noqa: T201
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
