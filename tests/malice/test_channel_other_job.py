"""The attacker runs genuine, correctly measured code in a genuine TEE, but for a job of its own."""

from __future__ import annotations

import hashlib

import pytest

from strongroom.attestation.channel import PeerRefusedError
from strongroom.attestation.failures import ReportDataError
from strongroom.errors import EvidenceError
from strongroom.statements import SigningKey
from strongroom.testing import connect_as, listen_as, simulated_platform

JOB, OTHER = (hashlib.sha384(name).digest() for name in (b"job", b"the attacker's job"))


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


def test_a_genuine_worker_of_another_job_cannot_join(platform):
    with listen_as("driver", platform=platform, job_digest=JOB) as driver:
        with pytest.raises(PeerRefusedError):
            connect_as("worker", driver.address, platform=platform, job_digest=OTHER)
        with pytest.raises(ReportDataError):
            driver.accept(deadline=15)


def test_a_client_does_not_trust_a_genuine_driver_of_another_job(platform):
    with listen_as("driver", platform=platform, job_digest=OTHER) as driver:
        with pytest.raises(EvidenceError):
            connect_as(
                "client", driver.address, platform=platform, job_digest=JOB, signer=SigningKey.generate(name="ann")
            )
        with pytest.raises(EvidenceError):
            driver.accept(deadline=15)


def test_a_genuine_worker_on_another_vendors_machine_cannot_join(platform):
    with simulated_platform() as elsewhere, listen_as("driver", platform=platform, job_digest=JOB) as driver:
        with pytest.raises(PeerRefusedError):
            connect_as("worker", driver.address, platform=elsewhere, job_digest=JOB)
        with pytest.raises(EvidenceError) as refused:
            driver.accept(deadline=15)
        assert refused.value.step in {"collateral", "certificates"}
