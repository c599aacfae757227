"""Receive the job from whoever proves to be its analyst, and tell that client what happens (spec/3-job.md §6).

Any key can attest a driver, so any number of strangers may come first: each is heard in a thread of its own, the first
valid handover wins, and the others are told why not and leave. What clients do afterwards never holds up the job; they
may go, and the analyst may come back and listen from the beginning.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from strongroom.attestation.channel import AttestedChannel
from strongroom.errors import RefusedError, StrongroomError, TransportError
from strongroom.jobs.spec import JobSpec
from strongroom.workload.ending import describe_defect
from strongroom.workload.handover import Handover, encode_failure, is_attach
from strongroom.workload.pulse import ALIVE, PULSE_SECONDS

HANDOVER_SECONDS = 30.0
MOST_WAITING = 64
MOST_LISTENING = 8
_MOST_EVENTS = 10_000
_LAST_WORD_SECONDS = 5.0

Verify = Callable[[AttestedChannel, dict[str, Any]], tuple[Handover, JobSpec]]


class Clients:
    """The clients of one driver: those that came, and those that listen to the job that it runs.

    ``verify`` returns the job that a client handed over or raises why it is none.
    """

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._waiting: OrderedDict[int, AttestedChannel] = OrderedDict()
        self._came = 0
        self._chosen: tuple[Handover, JobSpec] | None = None
        self._listeners: list[AttestedChannel] = []
        self._tellers: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._said: deque[dict[str, Any]] = deque(maxlen=_MOST_EVENTS)
        self._told = 0  # how many there ever were; the deque holds the last of them
        self._closed = False

    def receive(self, channel: AttestedChannel, said: dict[str, Any] | None = None) -> None:
        """Hear one client out; return when its job was taken, when it listens, or it was refused and is gone.

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
            if is_attach(heard):
                self._attach(channel)
            else:
                self._choose(channel, self._verify(channel, heard))
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

    @property
    def handover(self) -> Handover | None:
        """Return what the analyst's client handed over, if one did."""
        with self._changed:
            return self._chosen[0] if self._chosen is not None else None

    @property
    def said(self) -> Sequence[dict[str, Any]]:
        """Return everything that was told, or the last of it if that was much."""
        with self._changed:
            return list(self._said)

    def tell(self, event: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Tell every client, now or a little later; one that went away or does not listen is not waited for."""
        with self._changed:
            self._said.append({"type": event, **facts})
            self._told += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Give clients five seconds to hear what was said last, and end the connections; safe to call twice."""
        until = time.monotonic() + _LAST_WORD_SECONDS
        with self._changed:
            self._closed = True
            tellers, listeners = list(self._tellers), list(self._listeners)
            self._changed.notify_all()
        for teller in tellers:
            if teller is not threading.current_thread():
                teller.join(max(0.0, until - time.monotonic()))
        for channel in listeners:
            channel.close()

    def _choose(self, channel: AttestedChannel, found: tuple[Handover, JobSpec]) -> None:
        with self._changed:
            if self._chosen is not None:
                raise TransportError("this driver runs the job already for a client that came earlier")
            self._chosen = found
            self._listen(channel)

    def _attach(self, channel: AttestedChannel) -> None:
        """Let the job's analyst, who handed it over before, listen as well."""
        with self._changed:
            if self._chosen is None:
                raise TransportError("nobody has handed over a job to this driver yet", hint="submit the job again")
            if channel.party != self._chosen[1].analyst:
                raise RefusedError(
                    "only the job's analyst may listen to it",
                    reasons=(f"the client is {channel.party}, the job is by {self._chosen[1].analyst}",),
                )
            if len(self._listeners) >= MOST_LISTENING:
                raise TransportError(f"{MOST_LISTENING} clients listen to this job already", hint="end one of them")
            self._listen(channel)

    def _listen(self, channel: AttestedChannel) -> None:
        teller = threading.Thread(target=self._tell_all, args=(channel,), name="teller", daemon=True)
        self._listeners.append(channel)
        self._tellers.append(teller)
        teller.start()
        self._changed.notify_all()

    def _tell_all(self, channel: AttestedChannel) -> None:
        """Tell one client everything from the beginning on, until the end or until it left."""
        place = 0
        while True:
            with self._changed:
                here = self._changed.wait_for(lambda: self._told > place or self._closed, PULSE_SECONDS)  # noqa: B023
                place = max(place, self._told - len(self._said))
                fresh = list(self._said)[place - self._told :] if self._told > place else []
                place, closed = self._told, self._closed
            try:
                for event in fresh if here else (ALIVE,):
                    channel.send(event)
            except StrongroomError:
                break  # it left; the job goes on, and its result can be fetched later
            if closed:
                break
        with self._changed:
            if not self._closed:
                self._listeners.remove(channel)
                self._tellers.remove(threading.current_thread())


def _refuse(channel: AttestedChannel, error: StrongroomError) -> None:
    with contextlib.suppress(StrongroomError):
        channel.send(encode_failure(error), deadline=_LAST_WORD_SECONDS)
    channel.close()
