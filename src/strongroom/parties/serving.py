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
from strongroom.jobs.launch import JobHost, Leavable, Placement, TeeHost
from strongroom.parties.analyst import Analyst
from strongroom.parties.following import JobReport, OnEvent
from strongroom.parties.submitted import Remember, SubmittedJob, keeping, note_end, note_failure
from strongroom.serving.publication import Publication

_START_SECONDS = 120.0
_END_SECONDS = 15.0


@dataclass(slots=True, kw_only=True)
class RunningEndpoint:
    """An endpoint that serves; ``publication`` is what callers need."""

    publication: Publication
    launcher: Placement
    simulated: bool
    _following: threading.Thread | None = None
    _channel: AttestedChannel | None = None
    _report: list[JobReport] = field(default_factory=list)
    _failure: list[BaseException] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return its name on its host, if that keeps it."""
        return self.launcher.name if isinstance(self.launcher, Leavable) else ""

    def wait(self, seconds: float | None = None) -> JobReport | None:
        """Return once the endpoint has ended, None after ``seconds``; raise what ended it, with every reason."""
        if self._following is not None:
            self._following.join(seconds)
        if self._failure:
            raise self._failure[0]
        return self._report[0] if self._report else None

    def stop(self) -> None:
        """End it: requests that were begun are answered, the accounts are closed."""
        if self._following is not None and self._following.is_alive():
            self.launcher.dismiss()
            self._following.join(_END_SECONDS)
        if self._failure:
            note_failure(self.launcher, self._failure[0])
        else:
            note_end(self.launcher, "done")
        self.launcher.stop()

    def leave(self) -> None:
        """Go away and leave it to its host; raise UsageError if that does not keep it."""
        launcher = keeping(self.launcher)
        if self._channel is not None:
            self._channel.close()
        launcher.leave()


def serve(
    analyst: Analyst,
    job: Path,
    *,
    broker: BrokerClient,
    host: TeeHost | JobHost,
    directory: Path,
    listen: str = "127.0.0.1:0",
    address: tuple[str, int] | None = None,
    leaving: bool = False,
    batch_rows: int = 256,
    batch_wait: float = 0.002,
    on_event: OnEvent = lambda _name, _facts: None,
    remember: Remember = lambda _left: None,
) -> RunningEndpoint:
    """Return the endpoint of the job in the TOML file ``job`` once it answers; raise what refuses it, with reasons.

    ``listen`` is for an endpoint on this machine; another host gives it an address. ``address`` is what is published
    where callers reach it elsewhere. With ``leaving``, nobody counts on this process to carry callers' connections.
    """
    submitted = analyst.submit(job, broker=broker)
    on_event("submitted", {"job": submitted.ticket.job_id, "seconds": submitted.timings["submit"]})
    more = ["--batch-rows", str(batch_rows), "--batch-wait", str(batch_wait)]
    if not isinstance(host, JobHost):
        more += ["--listen", listen]
    launcher = analyst.launch(
        submitted,
        host=host,
        engine="serving",
        directory=directory,
        on_event=on_event,
        role=Role.ENDPOINT,
        more=more,
    )
    try:
        where = address or (keeping(launcher).address_within() if leaving else launcher.start_address)
        left, channel = analyst.hand_to_head(submitted, launcher, broker=broker, on_event=on_event, role=Role.ENDPOINT)
        remember(left)
        running = RunningEndpoint(
            publication=Publication.of(submitted.signed.statement, address=where),
            launcher=launcher,
            simulated=left.simulated,
            _channel=channel,
        )
        _follow(running, analyst, submitted=submitted, channel=channel, on_event=on_event)
    except BaseException as error:  # also Ctrl-C
        note_failure(launcher, error)
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
            if isinstance(running.launcher, Leavable):
                running.launcher.note("serving")
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
