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
from dataclasses import dataclass
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
    """A broker that is ready: where it answers, what it measures, where it shows how it goes, and its process."""

    url: str
    measurement: str
    metrics: str
    process: SimulatedProcess

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
        metrics: str = "127.0.0.1:0",
    ) -> RunningBroker:
        """Start the measured broker on ``listen`` (host:port, port 0 for a free one) and return it when it is ready.

        Its sealed records are kept in ``store``, a directory or a PostgreSQL address, and what it says goes to ``log``.
        ``metrics`` is where it shows its operator how it goes. With ``standby`` it is ready once no other broker serves
        from the store, however long that takes. Raise BrokerStartError with its own words if it refuses to start,
        TransportError if it says nothing for half a minute.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        place = str(store) if "://" in str(store) else str(Path(store).absolute())
        argv = ["--store", place, "--listen", listen, "--metrics", metrics, *(["--standby"] if standby else [])]
        with log.open("ab") as stream:
            begin = stream.tell()
            process = self.platform.start(Role.BROKER, argv, stdout=subprocess.PIPE, stderr=stream)
        try:
            said = _first_event(process, log=log, begin=begin, seconds=None if standby else _READY_SECONDS)
        except BaseException:
            _stop(process)
            raise
        return RunningBroker(
            url=f"https://{said.get('host')}:{said.get('port')}",
            measurement=process.measurement,
            metrics=f"http://{metrics.rpartition(':')[0]}:{said.get('metrics')}/metrics",
            process=process,
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


def _first_event(process: SimulatedProcess, *, log: Path, begin: int, seconds: float | None) -> dict[str, object]:
    """Return what a process says when it is ready, and keep its output flowing ever after."""
    events: queue.Queue[dict[str, object] | None] = queue.Queue()

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
    if said is None:
        raise BrokerStartError(
            f"the broker ended before it was ready{_last_words(log, begin)}",
            hint=f"all that it said is in {log}; after an update run scripts/setup again",
        )
    if said["event"] != "ready":
        message = str(said.get("message") or "the broker did not start")
        raise BrokerStartError(message, hint=str(said.get("hint") or f"see {log}"))
    return said
