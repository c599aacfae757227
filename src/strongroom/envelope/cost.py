"""State how many calls to a key service the envelope makes; tests hold it to this (spec/1-encrypted-dataset.md §9).

The number of files and columns stands in no formula: file keys are wrapped and unwrapped locally, in memory.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyServiceCalls:
    """Calls to the owner's custody: wraps and unwraps of data keys."""

    wraps: int = 0
    unwraps: int = 0

    def __add__(self, other: KeyServiceCalls) -> KeyServiceCalls:
        return KeyServiceCalls(wraps=self.wraps + other.wraps, unwraps=self.unwraps + other.unwraps)


def encrypting(*, files: int, columns: int) -> KeyServiceCalls:  # noqa: ARG001  that they do not matter is the point
    """Return the calls for encrypting one dataset version, whatever its ``files`` and ``columns``: one wrap."""
    return KeyServiceCalls(wraps=1)


def unwrapping_for_registration() -> KeyServiceCalls:
    """Return the calls for handing the data key of one dataset version to the broker: one unwrap."""
    return KeyServiceCalls(unwraps=1)


def opening(*, files: int, columns: int, processes: int) -> KeyServiceCalls:  # noqa: ARG001
    """Return the calls for reading a dataset in any number of ``processes``: none; each got its keys in one release."""
    return KeyServiceCalls()


def rewrapping() -> KeyServiceCalls:
    """Return the calls for moving one dataset version to another master key: one unwrap, one wrap, no data touched."""
    return KeyServiceCalls(wraps=1, unwraps=1)
