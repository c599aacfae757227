"""Count what the broker does, for its operator: doors, outcomes, kinds of entries, commits (spec/4-release.md §4.3).

Counts only: no name of a party, dataset or job, no key, no address. Whoever watches the broker's traffic knows as much.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralSeen:
    """What the last appraisal of one kind of TEE rested on."""

    expires: datetime
    evaluation_number: int


@dataclass(slots=True)
class Tally:
    """Everything that is counted; one event loop writes and reads it."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # by door and status
    entries: Counter[str] = field(default_factory=Counter)  # by kind
    commits: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_SECONDS) + 1))  # by time taken
    commit_seconds: float = 0.0
    committed: int = 0  # entries in all commits
    collateral: dict[str, CollateralSeen] = field(default_factory=dict)  # by kind of TEE

    def count_commit(self, *, seconds: float, entries: int) -> None:
        """Count one commit of several ``entries``."""
        self.commits[bisect_left(COMMIT_SECONDS, seconds)] += 1
        self.commit_seconds += seconds
        self.committed += entries
