"""Say who takes part in one round of a program that several workers run together (spec/3-job.md §10).

The driver writes it, of workers that it admitted, and sends it to each over that worker's attested channel. It holds
addresses, which are hints, and the digests of public keys, which decide. It holds no secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from strongroom.workload.handover import MessageError, expect, unbase64

MOST_WORKERS = 1000
_DIGEST_DIGITS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One worker's place in the mesh: where it listens, and the SHA-384 of its public keys in hex."""

    host: str
    port: int
    keys: str

    def encode(self) -> dict[str, Any]:
        """Return the place as it travels."""
        return {"host": self.host, "port": self.port, "keys": self.keys}

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse a place; raise MessageError otherwise."""
        fields = expect(value, "host", "port", "keys")
        port, keys = fields["port"], str(fields["keys"])
        if not isinstance(port, int) or not 0 < port < 1 << 16 or len(keys) != _DIGEST_DIGITS:
            raise MessageError("a place in the mesh has a host, a port and the digest of its worker's keys")
        return cls(host=str(fields["host"]), port=port, keys=keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """One round: its number, every worker's place in order of rank, and the rank of whoever reads this."""

    round: int
    rank: int
    places: tuple[Place, ...]

    @property
    def size(self) -> int:
        """Return how many workers take part."""
        return len(self.places)

    def encode(self) -> dict[str, Any]:
        """Return the roster as it travels."""
        return {"round": self.round, "rank": self.rank, "places": [place.encode() for place in self.places]}

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse a roster; raise MessageError otherwise."""
        fields = expect(value, "round", "rank", "places")
        number, rank, places = fields["round"], fields["rank"], fields["places"]
        if not isinstance(places, list) or not 0 < len(places) <= MOST_WORKERS:
            raise MessageError(f"a roster has 1 to {MOST_WORKERS} places")
        if not isinstance(number, int) or not isinstance(rank, int) or number < 1 or not 0 <= rank < len(places):
            raise MessageError("a roster has a round from 1, and a rank below the number of its places")
        listed = tuple(Place.decode(place) for place in places)
        if len({place.keys for place in listed}) != len(listed):
            raise MessageError("two places of a roster have the same keys")
        return cls(round=number, rank=rank, places=listed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What the driver sends each worker to begin a round: roster, program, and the last checkpoint's manifest, if any.

    ``checkpoint`` is a description as :class:`~strongroom.workload.outbox.OutputDraft` encodes it.
    """

    roster: Roster
    program: bytes
    checkpoint: dict[str, Any] | None

    def encode(self) -> dict[str, Any]:
        """Return the message as it travels, over an attested channel only."""
        import base64

        return {
            "type": "round",
            "roster": self.roster.encode(),
            "program": base64.b64encode(self.program).decode(),
            "checkpoint": self.checkpoint,
        }

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse the message; raise MessageError otherwise."""
        fields = expect(value, "roster", "program", "checkpoint", type_="round")
        checkpoint = fields["checkpoint"]
        if checkpoint is not None and not isinstance(checkpoint, dict):
            raise MessageError("a checkpoint is described by an object, or by nothing")
        return cls(roster=Roster.decode(fields["roster"]), program=unbase64(fields["program"]), checkpoint=checkpoint)
