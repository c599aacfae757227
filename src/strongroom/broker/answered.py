"""What the broker's answers to members and analysts say: receipts, tickets, outputs that wait, sealed results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from strongroom.broker.requests import decode64, encode64
from strongroom.errors import TransportError
from strongroom.statements import VerifyKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where in the ledger something stands; None if it stood there before."""

    index: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What lets one driver run one job; the secret is for the attested driver alone."""

    job_id: str
    secret: bytes
    index: int

    def encode(self) -> dict[str, Any]:
        """Return the ticket as it travels to the attested driver."""
        return {"job": self.job_id, "secret": encode64(self.secret), "index": self.index}

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> Self:
        """Parse what :meth:`encode` wrote; raise TransportError otherwise."""
        try:
            return cls(
                job_id=str(value["job"]), secret=decode64(value["secret"], name="a ticket"), index=int(value["index"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TransportError("not a ticket") from error

    def __repr__(self) -> str:
        return f"Ticket(job_id={self.job_id!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingOutput:
    """An output that waits for a party's approval: what it is, of which job, for whom."""

    output_id: str
    digest: str
    location: str
    details: Mapping[str, Any]
    job_id: str
    analyst: str
    purpose: str
    program: str
    recipients: tuple[str, ...]
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultKey:
    """A result's key, still sealed to the recipient, and what identifies the result's files."""

    output_id: str
    manifest_digest: str
    signer: VerifyKey
    location: str
    details: Mapping[str, Any]
    sealed: bytes
    index: int
