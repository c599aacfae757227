"""Name the part that a party to an attested channel plays (spec/4-release.md §1).

The role is inside REPORTDATA, so evidence made for one role is worthless in another. Nothing here checks anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from strongroom.errors import UsageError


class Role(StrEnum):
    """The six parts; ``client`` is the analyst's or a caller's side of a channel and never attests."""

    BROKER = "broker"
    DRIVER = "driver"
    WORKER = "worker"
    EGRESS = "egress"
    ENDPOINT = "endpoint"
    CLIENT = "client"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the role written as ``text``; raise UsageError for any other word."""
        try:
            return cls(text)
        except ValueError as error:
            raise UsageError(
                f"unknown role {str(text)[:40]!r}", hint=f"a role is one of {', '.join(sorted(cls))}"
            ) from error

    @property
    def attests(self) -> bool:
        """Say whether this part runs in a TEE and therefore has evidence to show."""
        return self is not Role.CLIENT
