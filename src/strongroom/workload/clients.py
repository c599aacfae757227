"""Receive the job from whoever proves to be its analyst, and tell that client what happens (spec/3-job.md §6).

Any key can attest a driver, so any number of strangers may come first: each is heard in a thread of its own, the first
valid handover wins, and the others are told why not and leave. What the client does afterwards never holds up the job.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from strongroom.attestation.channel import AttestedChannel
from strongroom.errors import StrongroomError, TransportError
from strongroom.jobs.spec import JobSpec
from strongroom.workload.ending import describe_defect
from strongroom.workload.handover import Handover, encode_failure
from strongroom.workload.pulse import ALIVE, PULSE_SECONDS

HANDOVER_SECONDS = 30.0
MOST_WAITING = 64
_MOST_EVENTS = 10_000
_LAST_WORD_SECONDS = 5.0

Verify = Callable[[AttestedChannel, dict[str, Any]], tuple[Handover, JobSpec]]


class Clients:
    """The clients of one driver: those that came, and the one whose job it runs.

    ``verify`` returns the job that a client handed over or raises why it is none.
    """

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._waiting: OrderedDict[int, AttestedChannel] = OrderedDict()
        self._came = 0
        self._chosen: tuple[Handover, JobSpec] | None = None
        self._channel: AttestedChannel | None = None
        self._changed = threading.Condition()
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_EVENTS)
        self._teller = threading.Thread(target=self._tell_all, name="teller", daemon=True)

    def receive(self, channel: AttestedChannel, said: dict[str, Any] | None = None) -> None:
        """Hear one client out; return when its job was taken, or it was refused and is gone.

        ``said`` is its first message, if somebody else has heard that already.
        """
        with self._changed:
            self._came += 1
            number = self._came
            self._waiting[number] = channel
            # Whoever says nothing gives way to those who come; an analyst hands over at once.
            stale = self._waiting.popitem(last=False)[1] if len(self._waiting) > MOST_WAITING else None
        if stale is not None:
            stale.close()
        try:
            heard = channel.receive(deadline=HANDOVER_SECONDS) if said is None else said
            found = self._verify(channel, heard)
            self._choose(channel, found)
        except StrongroomError as error:
            _refuse(channel, error)
        except Exception as error:  # noqa: BLE001  whatever a stranger sent
            _refuse(channel, describe_defect(error))
        finally:
            with self._changed:
                self._waiting.pop(number, None)

    def wait(self, *, deadline: float) -> tuple[Handover, JobSpec]:
        """Return the job that a client handed over; raise TransportError after ``deadline`` seconds without one."""
        with self._changed:
            self._changed.wait_for(lambda: self._chosen is not None, deadline)
            if self._chosen is None:
                raise TransportError(
                    f"no client handed over the job within {deadline:.0f} s ({self._came} came)",
                    hint="submit the job again",
                )
            return self._chosen

    def tell(self, event: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Tell the client, now or a little later; one that went away or does not listen is not waited for."""
        with contextlib.suppress(queue.Full):
            self._events.put_nowait({"type": event, **facts})

    def close(self) -> None:
        """Give the client five seconds to hear what was said last, and end the connection; safe to call twice."""
        until = time.monotonic() + _LAST_WORD_SECONDS
        with contextlib.suppress(queue.Full):
            self._events.put(None, timeout=_LAST_WORD_SECONDS)
        if self._teller.ident is not None and self._teller is not threading.current_thread():
            self._teller.join(max(0.0, until - time.monotonic()))
        if self._channel is not None:
            self._channel.close()

    def _choose(self, channel: AttestedChannel, found: tuple[Handover, JobSpec]) -> None:
        with self._changed:
            if self._chosen is not None:
                raise TransportError("this driver runs the job already for a client that came earlier")
            self._chosen, self._channel = found, channel
            self._teller.start()
            self._changed.notify_all()

    def _tell_all(self) -> None:
        while self._channel is not None:
            try:
                event = self._events.get(timeout=PULSE_SECONDS)
            except queue.Empty:
                event = ALIVE
            if event is None:
                return
            try:
                self._channel.send(event)
            except StrongroomError:
                return  # it left; the job goes on, and its result can be fetched later


def _refuse(channel: AttestedChannel, error: StrongroomError) -> None:
    with contextlib.suppress(StrongroomError):
        channel.send(encode_failure(error), deadline=_LAST_WORD_SECONDS)
    channel.close()
