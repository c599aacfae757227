"""The operator: starts a broker on its machine, and is trusted by nobody.

What the operator sees is ciphertext, sealed records and measurements. On a machine without TEE hardware the simulated
platform starts and measures the process; it protects nothing and says so.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.platform import SimulatedPlatform, TeeKind
from strongroom.attestation.simulated.process import SimulatedProcess
from strongroom.errors import StrongroomError, TransportError, UsageError
from strongroom.jobs.launch.standalone import HostAgent
from strongroom.jobs.launch.standalone.line import AgentCertificate
from strongroom.statements import PartyId

_READY_SECONDS = 30.0
_STOP_SECONDS = 5.0
_MAX_LINE = 1 << 16
_MAX_WORDS = 200


class BrokerStartError(StrongroomError):
    """The broker's process ended before it was ready; the message is its own."""


@dataclass(slots=True)
class RunningBroker:
    """A broker that answers: where, what it measures, where it shows how it goes, and its process.

    ``custodians`` have to unseal it before it serves; none if it is ready.
    """

    url: str
    measurement: str
    metrics: str
    process: SimulatedProcess
    custodians: tuple[str, ...] = ()
    events: queue.Queue[dict[str, object] | None] = field(default_factory=queue.Queue, repr=False)

    def wait_unsealed(self, seconds: float) -> None:
        """Wait until the broker serves; raise BrokerStartError if it ends instead, TransportError after ``seconds``."""
        if not self.custodians:
            return
        try:
            said = self.events.get(timeout=seconds)
        except queue.Empty as error:
            raise TransportError(
                f"the broker is still sealed after {seconds:.0f} s", hint="each custodian runs `strongroom unseal`"
            ) from error
        _check_event(said, expected=("ready",), words="")
        self.custodians = ()

    def wait(self) -> int:
        """Wait for the broker's end and return its exit status."""
        return self.process.wait()

    def stop(self) -> None:
        """End the broker politely, then by force."""
        _stop(self.process)


class Operator:
    """An operator's SDK for one machine with a simulated TEE, whose files are in ``platform``."""

    def __init__(self, platform: Path | SimulatedPlatform, *, tee: TeeKind = "sgx") -> None:
        self.platform = platform if isinstance(platform, SimulatedPlatform) else SimulatedPlatform(platform, tee=tee)

    def refresh_collateral(self) -> None:
        """Write the platform's root and collateral anew where relying parties on this machine read them."""
        self.platform.expose()

    def start_broker(
        self,
        store: str | Path,
        *,
        listen: str,
        log: Path,
        standby: bool = False,
        source: str = "",
        custodians: Collection[PartyId] = (),
        metrics: str = "127.0.0.1:0",
    ) -> RunningBroker:
        """Start the measured broker on ``listen`` (host:port, port 0 for a free one) and return it when it answers.

        Its sealed records are kept in ``store``, a directory or a PostgreSQL address, and what it says goes to ``log``.
        ``metrics`` is where it shows its operator how it goes. With ``standby`` it is ready once no other broker serves
        from the store, however long that takes; the one at ``source`` hands it its key before. Where the TEE has no
        sealing key it answers sealed: ``custodians``, named at the first start, have to unseal it. Raise
        BrokerStartError with its own words if it refuses to start, TransportError if it says nothing for half a minute.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        place = str(store) if "://" in str(store) else str(Path(store).absolute())
        argv = ["--store", place, "--listen", listen, "--metrics", metrics, *(["--standby"] if standby else [])]
        argv += ["--from", source] if source else []
        argv += [word for party in custodians for word in ("--custodian", str(party))]
        with log.open("ab") as stream:
            begin = stream.tell()
            process = self.platform.start(Role.BROKER, argv, stdout=subprocess.PIPE, stderr=stream)
        events: queue.Queue[dict[str, object] | None] = queue.Queue()
        try:
            said = _first_event(process, events, log=log, begin=begin, seconds=None if standby else _READY_SECONDS)
        except BaseException:
            _stop(process)
            raise
        return RunningBroker(
            url=f"https://{said.get('host')}:{said.get('port')}",
            measurement=process.measurement,
            metrics=f"http://{metrics.rpartition(':')[0]}:{said.get('metrics')}/metrics",
            process=process,
            custodians=tuple(str(party) for party in _listed(said.get("custodians"))),
            events=events,
        )

    def lend(
        self,
        *,
        admits: Collection[PartyId],
        jobs: Path,
        directory: Path,
        most: int,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda _name, _facts: None,
    ) -> HostAgent:
        """Return an agent that lends this machine to jobs of the parties in ``admits``; it does not listen yet.

        Jobs work below ``jobs``, on storage that all machines share. The agent keeps its certificate and logs in
        ``directory`` and runs at most ``most`` processes at once.
        """
        if not jobs.is_dir():
            raise UsageError(f"{jobs} is not a directory", hint="name the shared directory below which jobs work")
        return HostAgent(
            self.platform,
            certificate=AgentCertificate.keep(directory),
            admits=admits,
            jobs=jobs,
            logs=directory / "logs",
            most=most,
            on_event=on_event,
        )


def _stop(process: SimulatedProcess) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=_STOP_SECONDS)


def _last_words(log: Path, begin: int) -> str:
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - _MAX_LINE))
        lines = stream.read(_MAX_LINE).decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1][:_MAX_WORDS]}" if said else ""


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _first_event(
    process: SimulatedProcess,
    events: queue.Queue[dict[str, object] | None],
    *,
    log: Path,
    begin: int,
    seconds: float | None,
) -> dict[str, object]:
    """Return what a process says when it answers, and keep its output flowing into ``events`` ever after."""

    def read() -> None:
        stream = process.stdout
        while stream is not None and (line := stream.readline(_MAX_LINE)):
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and "event" in said:
                events.put(said)
        events.put(None)

    threading.Thread(target=read, name="broker-says", daemon=True).start()
    started = time.monotonic()
    try:
        said = events.get(timeout=seconds)
    except queue.Empty as error:
        raise TransportError(
            f"the broker said nothing for {time.monotonic() - started:.0f} s", hint=f"is the machine busy? see {log}"
        ) from error
    hint = f"all that it said is in {log}; after an update run scripts/setup again"
    return _check_event(said, expected=("ready", "sealed"), words=_last_words(log, begin), hint=hint)


def _check_event(
    said: dict[str, object] | None, *, expected: Collection[str], words: str, hint: str = "see its log"
) -> dict[str, object]:
    if said is None:
        raise BrokerStartError(f"the broker ended before it was ready{words}", hint=hint)
    if said["event"] not in expected:
        message = str(said.get("message") or "the broker did not start")
        raise BrokerStartError(message, hint=str(said.get("hint") or hint))
    return said
