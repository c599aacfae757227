"""Say how a broker stands: whether it serves, or is sealed and waits for which custodians (spec/4-release.md §5.5).

The broker is attested first, sealed or not; nothing is contributed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from strongroom.attestation.roles import Role
from strongroom.broker.client import BrokerClient
from strongroom.broker.custodian_client import NotSealedError, SealedBroker
from strongroom.ledger import CheckpointMemory
from strongroom.parties.trust import Trust
from strongroom.statements import PartyId


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStanding:
    """An attested broker: ``missing`` custodians have yet to contribute; ``entries`` are its ledger's if it serves."""

    url: str
    sealed: bool
    measurement: str
    simulated: bool
    custodians: tuple[PartyId, ...] = ()
    missing: tuple[PartyId, ...] = ()
    entries: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "broker": self.url,
            "state": "sealed" if self.sealed else "serving",
            "measurement": self.measurement,
            "simulated": self.simulated,
            "custodians": [str(party) for party in self.custodians],
            "missing": [str(party) for party in self.missing],
            "entries": self.entries,
        }


def look_at_broker(url: str, *, trust: Trust, memory: CheckpointMemory) -> BrokerStanding:
    """Return how the broker at ``url`` stands, after attesting it; raise EvidenceError if it is not good enough."""
    expected = trust.measurements.get(Role.BROKER, frozenset())
    try:
        sealed = SealedBroker.attest(url, verifier=trust.verifier(), expected_measurements=expected)
    except NotSealedError:
        client = BrokerClient.attest(url, verifier=trust.verifier(), expected_measurements=expected, memory=memory)
        try:
            return BrokerStanding(
                url=url,
                sealed=False,
                measurement=client.result.measurement,
                simulated=client.result.simulated,
                entries=client.checkpoint().size,
            )
        finally:
            client.close()
    try:
        return BrokerStanding(
            url=url,
            sealed=True,
            measurement=sealed.result.measurement,
            simulated=sealed.result.simulated,
            custodians=sealed.state.custodians,
            missing=sealed.state.missing,
        )
    finally:
        sealed.close()
