"""Wait while a broker is sealed: take each custodian's contribution, once, for this start (spec/4-release.md §5.5).

It holds nothing that opens anything before the last custodian came, and forgets what it was given after an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from strongroom.broker.calls import SealedBrokerError
from strongroom.broker.custodians import OpenByCustodians, WrongContributionError
from strongroom.envelope.keys import DataKey
from strongroom.statements import PartyId

CONTRIBUTION_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one custodian gave: its part, and the newest checkpoint of the ledger that it remembers, or nothing."""

    part: DataKey = field(repr=False)
    checkpoint: str
    at: float


class Vigil:
    """Who has contributed to one sealed start; ``clock`` tells seconds that only grow."""

    def __init__(self, plan: OpenByCustodians, *, store: bytes, seal: bytes, clock: Callable[[], float]) -> None:
        self.plan = plan
        self.store = store
        self.seal = seal
        self.complete = asyncio.Event()
        self._clock = clock
        self._given: dict[PartyId, Contribution] = {}

    @property
    def custodians(self) -> tuple[PartyId, ...]:
        """Return whose contributions are needed."""
        return self.plan.custodians

    @property
    def given(self) -> tuple[PartyId, ...]:
        """Return who has contributed within the last hour."""
        self._forget()
        return tuple(party for party in self.custodians if party in self._given)

    def take(self, party: PartyId, part: DataKey, *, checkpoint: str) -> None:
        """Take a custodian's part; raise WrongContributionError unless it is one, and its part is what was sealed with.

        The party is known by its signature. Contributing again replaces what it gave before.
        """
        named = next((custodian for custodian in self.custodians if custodian == party), None)
        if named is None:
            raise WrongContributionError(f"{party} is not a custodian of this store")
        if self.plan.dealt is not None and named in self.plan.dealt.custodians:
            self.plan.dealt.check(named, part)
        self._given[named] = Contribution(part=part, checkpoint=checkpoint, at=self._clock())
        if len(self.given) == len(self.custodians):
            self.complete.set()

    def release(self) -> Mapping[PartyId, Contribution]:
        """Return all contributions and keep none; raise SealedBrokerError while one is missing."""
        if len(self.given) != len(self.custodians):
            raise SealedBrokerError(self.describe())
        given, self._given = self._given, {}
        return given

    def describe(self) -> str:
        """Return one sentence on who has contributed and who has to."""
        given = self.given
        missing = ", ".join(str(party) for party in self.custodians if party not in given)
        done = f"{len(given)} of {len(self.custodians)} custodians have contributed"
        return f"the broker is sealed: {done}; missing: {missing or 'nobody'}"

    def _forget(self) -> None:
        """Drop what was given more than an hour ago."""
        late = [party for party, one in self._given.items() if self._clock() - one.at > CONTRIBUTION_SECONDS]
        for party in late:
            self._given.pop(party).part.wipe()
