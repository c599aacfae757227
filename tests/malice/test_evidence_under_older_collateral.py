"""The host serves collateral from before a revocation or recovery, still formally valid, or sets the clock back."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from strongroom.attestation.appraisal import CollateralMemory, TrustAnchor, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.failures import ClockSetBackError, RevokedError, StaleCollateralError
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
VENDOR = Vendor(os.urandom(32))
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
EVIDENCE = Evidence(
    tee="sgx", quote=quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
)


class Host:
    """Serves what it likes."""

    def __init__(self) -> None:
        self.text = ""

    def serve(self, when: datetime, **faults: object) -> None:
        self.text = VENDOR.collateral("sgx", now=when, faults=Faults(**faults))

    def collateral(self, quote: bytes) -> str:
        return self.text


def appraise(host: Host, memory: CollateralMemory, now: datetime = NOW):
    return Verifier(ANCHOR, host, memory=memory).appraise(EVIDENCE, report_data=bytes(64), now=now)


@pytest.mark.parametrize("revoked", ["pck", "platform-ca", "tcb-signer"])
def test_collateral_from_before_a_revocation_is_refused_once_the_revocation_was_seen(
    tmp_path: Path, revoked: str
) -> None:
    host, path = Host(), tmp_path / "memory.json"
    host.serve(NOW - timedelta(days=2))
    appraise(host, CollateralMemory(path))
    host.serve(NOW, revoked=revoked)
    with pytest.raises(RevokedError):
        appraise(host, CollateralMemory(path))
    host.serve(NOW - timedelta(days=2))
    with pytest.raises(StaleCollateralError, match="already seen"):
        appraise(host, CollateralMemory(path))


def test_a_fresh_revocation_list_with_old_tcb_info_is_refused() -> None:
    host, memory = Host(), CollateralMemory()
    host.serve(NOW)
    appraise(host, memory)
    host.serve(NOW + timedelta(days=1), evaluation_number=19)
    with pytest.raises(StaleCollateralError, match="number 19"):
        appraise(host, memory, NOW + timedelta(days=1))


def test_expired_collateral_is_not_revived_by_setting_the_clock_back() -> None:
    host, memory = Host(), CollateralMemory()
    host.serve(NOW)
    appraise(host, memory)
    with pytest.raises(StaleCollateralError, match="expired"):
        appraise(host, memory, NOW + timedelta(days=31))
    host.serve(NOW + timedelta(days=31))
    appraise(host, memory, NOW + timedelta(days=31))
    host.serve(NOW)
    with pytest.raises(ClockSetBackError):
        appraise(host, memory, NOW)


def test_forged_collateral_from_the_future_does_not_poison_the_memory() -> None:
    host, memory = Host(), CollateralMemory()
    host.serve(NOW)
    forged = VENDOR.impostor().collateral("sgx", now=NOW, faults=Faults(evaluation_number=9999))
    genuine, host.text = host.text, forged
    with pytest.raises(Exception, match="trust anchor"):
        appraise(host, memory)
    host.text = genuine.replace('"tcbEvaluationDataNumber\\":20', '"tcbEvaluationDataNumber\\":9999')
    assert host.text != genuine
    with pytest.raises(Exception, match="tcb_info"):
        appraise(host, memory)
    host.text = genuine
    assert appraise(host, memory).tcb_status == "UpToDate"
