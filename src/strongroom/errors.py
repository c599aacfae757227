"""The tree of everything that can go wrong, sorted by whose fault it is.

::

    StrongroomError            exit 1
    ├── UsageError             exit 2   a person asked for something that cannot be
    ├── RefusedError           exit 3   a policy said no; carries every reason
    ├── EvidenceError          exit 4   evidence is not good enough; carries the step
    ├── EnvelopeError          exit 1   data or keys are not what they should be
    ├── PolicyError            exit 1   a policy or job document is malformed or badly signed
    ├── LedgerError            exit 4   the ledger contradicts itself or what was remembered
    └── TransportError         exit 1   the other side cannot be reached, or talks nonsense

Every error has a message (lower case: what was got, what was expected) and a ``hint`` (what to do). Leaves are defined
in the room that raises them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class StrongroomError(Exception):
    """Anything Strongroom refuses or fails to do.

    ``message`` says what was got and what was expected; ``hint`` says what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """Return the name that may be told to a stranger: what failed, without why."""
        return type(self).__name__


class UsageError(StrongroomError):
    """A person asked for something that cannot be."""

    exit_code = 2


class RefusedError(StrongroomError):
    """A policy said no; ``reasons`` holds every rule that did."""

    exit_code = 3

    def __init__(self, message: str, *, reasons: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reasons = tuple(reasons)


class EvidenceError(StrongroomError):
    """Evidence is not good enough; ``step`` names the first check that failed (spec/4-release.md)."""

    exit_code = 4

    def __init__(self, message: str, *, step: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step


class EnvelopeError(StrongroomError):
    """Encrypted data, a manifest or a key is not what it should be."""


class PolicyError(StrongroomError):
    """A policy or job document is malformed, badly signed or contradictory."""


class LedgerError(StrongroomError):
    """The ledger contradicts itself, its signature or what a client remembers."""

    exit_code = 4


class TransportError(StrongroomError):
    """The other side cannot be reached, is too slow, or does not speak the protocol."""
