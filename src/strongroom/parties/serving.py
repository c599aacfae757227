"""Serve a model as its analyst: submit the job, place the endpoint, attest it, hand over, and follow it to its end.

The endpoint answers on its own; whoever started it only hears what happens, and can end it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strongroom.attestation.channel import AttestedChannel
from strongroom.attestation.roles import Role
from strongroom.broker.client import BrokerClient
from strongroom.errors import StrongroomError, TransportError
from strongroom.jobs.launch import Launcher, TeeHost
from strongroom.jobs.launch.placement import PlacementEvent
from strongroom.parties.analyst import Analyst, SubmittedJob
from strongroom.parties.following import JobReport, OnEvent
from strongroom.serving.publication import Publication

_START_SECONDS = 120.0


@dataclass(slots=True, kw_only=True)
class RunningEndpoint:
    """An endpoint that serves; ``publication`` is what callers need."""

    publication: Publication
    launcher: Launcher
    simulated: bool
    _following: threading.Thread | None = None
    _report: list[JobReport] = field(default_factory=list)
    _failure: list[BaseException] = field(default_factory=list)

    def wait(self, seconds: float | None = None) -> JobReport | None:
        """Return once the endpoint has ended, None after ``seconds``; raise what ended it, with every reason."""
        if self._following is not None:
            self._following.join(seconds)
        if self._failure:
            raise self._failure[0]
        return self._report[0] if self._report else None

    def stop(self) -> None:
        """End it: requests that were begun are answered, the accounts are closed."""
        self.launcher.stop()
        if self._following is not None:
            self._following.join(_START_SECONDS)


def serve(
    analyst: Analyst,
    job: Path,
    *,
    broker: BrokerClient,
    host: TeeHost,
    directory: Path,
    listen: str = "127.0.0.1:0",
    batch_rows: int = 256,
    batch_wait: float = 0.002,
    on_event: OnEvent = lambda _name, _facts: None,
) -> RunningEndpoint:
    """Return the endpoint of the job in the TOML file ``job`` once it answers; raise what refuses it, with reasons."""
    submitted = analyst.submit(job, broker=broker)
    on_event("submitted", {"job": submitted.ticket.job_id, "seconds": submitted.timings["submit"]})

    def forward(event: PlacementEvent) -> None:
        on_event(f"host-{event.kind}", {"role": event.role, **event.detail})

    launcher = Launcher(
        host,
        directory=directory,
        job_digest=submitted.digest,
        engine="serving",
        on_event=forward,
        head=str(Role.ENDPOINT),
        more=("--listen", listen, "--batch-rows", str(batch_rows), "--batch-wait", str(batch_wait)),
    )
    submitted.launcher = launcher
    try:
        launcher.start()
        address = launcher.start_address
        channel = analyst.attest_driver(submitted, address, role=Role.ENDPOINT)
        simulated = channel.peer is not None and channel.peer.simulated
        on_event("endpoint-attested", {"seconds": submitted.timings["attest-endpoint"], "simulated": simulated})
        analyst.hand_over(submitted, channel, broker=broker)
        running = RunningEndpoint(
            publication=Publication.of(submitted.signed.statement, address=address),
            launcher=launcher,
            simulated=simulated,
        )
        _follow(running, analyst, submitted=submitted, channel=channel, on_event=on_event)
    except BaseException:
        launcher.stop()
        raise
    return running


def _follow(
    running: RunningEndpoint,
    analyst: Analyst,
    *,
    submitted: SubmittedJob,
    channel: AttestedChannel,
    on_event: OnEvent,
) -> None:
    """Hear the endpoint out in a thread, and return when it says that it serves; raise what ended it before that."""
    serving = threading.Event()

    def hear(name: str, facts: Mapping[str, Any]) -> None:
        on_event(name, facts)
        if name == "serving":
            serving.set()

    def follow() -> None:
        try:
            running._report.append(analyst.follow(submitted, channel, on_event=hear))
        except StrongroomError as error:
            running._failure.append(error)
        finally:
            serving.set()
            with contextlib.suppress(StrongroomError):
                channel.close()

    running._following = threading.Thread(target=follow, name="endpoint", daemon=True)
    running._following.start()
    if not serving.wait(_START_SECONDS):
        raise TransportError(f"the endpoint did not serve within {_START_SECONDS:.0f} s")
    running.wait(0)
