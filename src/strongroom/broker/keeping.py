"""Say what keeps this broker's store shut, and whose data it may therefore keep (spec/4-release.md §5.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from strongroom.envelope.keys import DataKey
from strongroom.statements import PartyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What keeps the store shut: the TEE's sealing key, or the custodians, whose key this broker then holds."""

    custodians: tuple[PartyId, ...]
    key: DataKey = field(repr=False)
    how: str

    def objections(self, party: PartyId) -> tuple[str, ...]:
        """Return why ``party`` may not have a data key kept here: the store would open without it."""
        if not self.custodians or party in self.custodians:
            return ()
        names = ", ".join(map(str, self.custodians))
        return (f"{party} is not a custodian of this broker's store, whom it opens without; they are {names}",)

    def to_facts(self) -> dict[str, Any]:
        """Return what the ledger says of it."""
        named = {"custodians": [str(party) for party in self.custodians]} if self.custodians else {}
        return {"opened_by": self.how, **named}


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """The store's key as a running broker handed it over, and its newest checkpoint then."""

    key: DataKey = field(repr=False)
    checkpoint: str
