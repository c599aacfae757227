"""Stand in for hardware in tests: a simulated platform in a temporary directory, and TEEs in this very process.

For Strongroom's own tests and for those of programs that run on it. Everything here is signed by a throw-away root.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import AppraisalPolicy, Verifier
from strongroom.attestation.channel import AttestedChannel, Listener, connect
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated import Faults, SimulatedPlatform, SimulatedTee
from strongroom.attestation.simulated.platform import TeeKind
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import to_text
from strongroom.statements import SigningKey


@contextmanager
def simulated_platform(*, tee: TeeKind = "sgx", faults: Faults | None = None) -> Iterator[SimulatedPlatform]:
    """Give a fresh simulated platform whose directory is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="strongroom-") as directory:
        yield SimulatedPlatform(Path(directory) / "platform", tee=tee, faults=faults or Faults())


def simulated_tee(
    role: Role | str,
    *,
    platform: SimulatedPlatform,
    job_digest: bytes = b"",
    faults: Faults | None = None,
) -> SimulatedTee:
    """Return the TEE of a workload of ``role`` that this process plays itself; ``job_digest``: 48 bytes or none."""
    text = to_text(job_digest) if job_digest else ""
    return SimulatedTee.of(platform.enclave(role, job_digest=text, faults=faults))


def simulated_verifier(
    platform: SimulatedPlatform, *, policy: AppraisalPolicy | None = None, memory: CollateralMemory | None = None
) -> Verifier:
    """Return a verifier that trusts ``platform`` and takes its collateral."""
    return Verifier(
        TrustAnchor(root_der=platform.root_der, simulated=True),
        PlatformCollateral(platform),
        memory=memory or CollateralMemory(),
        policy=policy,
    )


class PlatformCollateral:
    """Collateral straight from a simulated platform, with the platform's faults."""

    def __init__(self, platform: SimulatedPlatform, *, faults: Faults | None = None) -> None:
        self._platform = platform
        self._faults = faults

    def collateral(self, quote: bytes) -> str:
        """Return QuoteCollateralV3 JSON, current now."""
        del quote
        return self._platform.collateral_json(faults=self._faults)


def listen_as(
    role: Role | str, *, platform: SimulatedPlatform, job_digest: bytes, deadline: float = 15.0, max_pending: int = 32
) -> Listener:
    """Return a listener on a free local port that plays ``role`` in a TEE of ``platform``."""
    return Listener(
        ("127.0.0.1", 0),
        keys=WorkloadKeys.generate(),
        role=Role.parse(role),
        tee=simulated_tee(role, platform=platform, job_digest=job_digest),
        verifier=simulated_verifier(platform),
        job_digest=job_digest,
        deadline=deadline,
        max_pending=max_pending,
    )


def connect_as(
    role: Role | str,
    address: tuple[str, int],
    *,
    platform: SimulatedPlatform,
    job_digest: bytes,
    expected_role: Role | str = Role.DRIVER,
    keys: WorkloadKeys | None = None,
    signer: SigningKey | None = None,
    deadline: float = 15.0,
) -> AttestedChannel:
    """Return a channel to ``address`` from a workload of ``role``, or from the client of the party ``signer``."""
    attester = Role.parse(role)
    return connect(
        address,
        keys=keys or WorkloadKeys.generate(),
        role=attester,
        expected_role=Role.parse(expected_role),
        tee=simulated_tee(attester, platform=platform, job_digest=job_digest) if attester.attests else None,
        signer=signer,
        verifier=simulated_verifier(platform),
        job_digest=job_digest,
        deadline=deadline,
    )
