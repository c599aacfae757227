"""Tell a time that never goes back, whatever the host does to the machine's clock (spec/4-release.md §6.1).

Policies end and collateral runs out by the clock, which is the host's. It can be wrong; it can not undo what was.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from strongroom.attestation.failures import ClockSetBackError
from strongroom.ledger.entry import Entry
from strongroom.ledger.log import MerkleLog
from strongroom.ledger.proofs import leaf_hash, verify_inclusion

TOLERANCE = timedelta(minutes=5)
"""How far back an honest clock may be set between a broker's end and its next start."""


class SteadyClock:
    """A clock that starts no earlier than ``after`` and runs at least as fast as time passes on this machine."""

    def __init__(
        self, *, wall: Callable[[], datetime], passed: Callable[[], float], after: datetime | None = None
    ) -> None:
        now = wall()
        if after is not None and now < after - TOLERANCE:
            raise ClockSetBackError(
                f"the clock says {now:%FT%TZ}, but the ledger's last entry was written at {after:%FT%TZ}",
                hint="the host's clock was set back, which would bring ended policies back to life; set it right",
            )
        self._wall, self._passed = wall, passed
        self._last = now if after is None else max(now, after)
        self._read = passed()

    def __call__(self) -> datetime:
        """Return the time: the machine's, unless that was set back."""
        passed = self._passed()
        least = self._last + timedelta(seconds=max(0.0, passed - self._read))
        self._last, self._read = max(self._wall(), least), passed
        return self._last


def last_written(log: MerkleLog) -> datetime | None:
    """Return when the last entry of ``log`` was written, or None if there is none.

    Entries lie in the host's database in the clear: raise ProofError for one that is not the one under the root.
    """
    if not log.size:
        return None
    last = log.size - 1
    (encoded,) = log.entries(last, log.size)
    proof = log.inclusion_proof(last, log.size)
    verify_inclusion(leaf_hash(encoded), index=last, size=log.size, root=log.root, proof=proof)
    return Entry.decode(encoded).time
