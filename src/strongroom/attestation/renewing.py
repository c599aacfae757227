"""Renew the evidence behind an open channel on a timer; a peer that fails has no channel any more (spec/6 §8)."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from strongroom.attestation.async_channel import AsyncAttestedChannel
from strongroom.attestation.channel import INTRODUCTION_SECONDS, AttestedChannel
from strongroom.attestation.encounter import MOST_OFTEN
from strongroom.errors import StrongroomError, UsageError

EVERY: Final = timedelta(minutes=10)


class KeptAttested:
    """A thread that renews a channel's evidence every ``every``; it ends with :meth:`stop`, or at the first failure.

    ``failure`` says why the channel was closed; ``renewals`` counts the good ones. The channel must be read from now
    and then at both ends, since requests for evidence arrive among its messages; ``deadline``: seconds for one renewal.
    """

    def __init__(
        self, channel: AttestedChannel, *, every: timedelta = EVERY, deadline: float = INTRODUCTION_SECONDS
    ) -> None:
        self.channel = channel
        self.failure: StrongroomError | None = None
        self.renewals = 0
        self._seconds = check_period(every)
        self._deadline = deadline
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attested-renewal", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing; the channel stays as it is."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(self._deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self.channel.reattest(deadline=self._deadline)
            except StrongroomError as error:  # reattest has closed the channel
                self.failure = error
                return
            self.renewals += 1


async def keep_attested(
    channel: AsyncAttestedChannel, *, every: timedelta = EVERY, deadline: float = INTRODUCTION_SECONDS
) -> None:
    """Renew the evidence behind ``channel`` every ``every`` until cancelled; a failure closes it and is raised."""
    seconds = check_period(every)
    while True:
        await asyncio.sleep(seconds)
        await channel.reattest(deadline=deadline)


def check_period(every: timedelta) -> float:
    """Return the seconds between two renewals; raise UsageError for a period that a peer would refuse."""
    seconds = every.total_seconds()
    if seconds <= MOST_OFTEN:
        raise UsageError(f"evidence is renewed every {seconds:g} s, at most once in {MOST_OFTEN:g} s is answered")
    return seconds
