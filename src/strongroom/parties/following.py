"""Follow a job: hear its driver's events to the end, and tell a driver that is silent or lost from one that works."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from strongroom.attestation.channel import AttestedChannel
from strongroom.attestation.secure_line import DeadlineError
from strongroom.errors import TransportError
from strongroom.jobs.launch import Placement
from strongroom.jobs.launch.placement import DriverLostError, PlacementError
from strongroom.workload.handover import decode_failure
from strongroom.workload.pulse import ALIVE, SILENCE_SECONDS

_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0  # for the driver's own word, once the host says that something cannot go on

OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """How a job ended well: its outputs, where they lie, and the seconds each step took."""

    job: str
    digest: str
    outputs: tuple[Mapping[str, Any], ...]
    timings: Mapping[str, float]
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """The line to an attested driver of one job; ``launcher`` is what placed it, if that was this process."""

    job: str
    digest: str
    timings: Mapping[str, float]
    channel: AttestedChannel
    launcher: Placement | None
    on_event: OnEvent
    silence: float = SILENCE_SECONDS

    def to_end(self) -> JobReport:
        """Tell of every event; return the report, or raise what stopped the job with every reason.

        Raises DriverLostError if the driver falls silent for ``silence`` seconds, or with what the host saw if it died,
        and PlacementError if its members keep dying.
        """
        said = self.until("done")
        return JobReport(
            job=self.job,
            digest=self.digest,
            outputs=tuple(said.get("outputs", ())),
            timings={**self.timings, **said.get("timings", {})},
            simulated=bool(self.channel.peer and self.channel.peer.simulated),
        )

    def until(self, last: str) -> dict[str, Any]:
        """Tell of every event up to the one named ``last``, and return it; raise as :meth:`to_end` does."""
        while True:
            said = self._hear()
            name = str(said.pop("type", ""))
            self.on_event(name, said)
            if name == "failed":
                raise decode_failure(said)
            if name == last:
                return said

    def _hear(self) -> dict[str, Any]:
        """Return the driver's next event."""
        launcher = self.launcher
        heard, gave_up = time.monotonic(), math.inf
        while True:
            try:
                said = dict(self.channel.receive(deadline=_LOOK_SECONDS))
            except DeadlineError:
                now = time.monotonic()
                if now - heard > self.silence:
                    raise DriverLostError(
                        f"the driver said nothing for {self.silence:.0f} s",
                        hint="its host may have stopped it; submit the job again",
                    ) from None
                if launcher is not None and (launcher.trouble or not launcher.running()):
                    gave_up = min(gave_up, now)
                if now - gave_up > _PATIENCE_SECONDS and launcher is not None:
                    if not launcher.running():  # and its connection does not break: its machine was cut off
                        raise _describe_end(launcher) from None
                    raise PlacementError(launcher.trouble, hint="see the job's logs; submit the job again") from None
            except TransportError as error:
                if launcher is None:
                    raise
                end = time.monotonic() + _PATIENCE_SECONDS
                while launcher.running() and time.monotonic() < end:
                    time.sleep(0.02)
                raise _describe_end(launcher) from error
            else:
                heard = time.monotonic()
                if said != ALIVE:
                    return said


def _describe_end(launcher: Placement) -> DriverLostError:
    seen = launcher.driver_end()
    return DriverLostError(seen.message, hint=seen.hint)
