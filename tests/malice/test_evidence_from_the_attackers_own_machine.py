"""The attacker buys a genuine machine, takes its keys out of the chip, and runs the right workload on it."""

from datetime import UTC, datetime

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.errors import EvidenceError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"h" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
ASKED = bytes(range(64))
QUOTES = {
    "sgx": quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=ASKED),
    "tdx": quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=ASKED),
}


class Served:
    def __init__(self, tee: str) -> None:
        self.tee = tee

    def collateral(self, quote: bytes) -> str:
        return VENDOR.collateral(self.tee, now=NOW)


def appraise(tee: str, *, hardware: list[str]):
    policy = AppraisalPolicy(hardware=frozenset(hardware))
    verifier = Verifier(ANCHOR, Served(tee), memory=CollateralMemory(), policy=policy)
    return verifier.appraise(Evidence(tee=tee, quote=QUOTES[tee]), report_data=ASKED, now=NOW)


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_the_right_workload_on_a_machine_that_is_not_listed_is_refused(tee: str) -> None:
    platform = verify_quote(QUOTES[tee], collateral=Served(tee).collateral(b""), now=NOW, anchor=ANCHOR)["claims"][
        "platform"
    ]
    ours = [f"ppid:{platform['ppid']}", f"instance:{platform['platform_instance_id']}"]
    for one in ours:
        assert appraise(tee, hardware=[one]).measurement
    for listed in (["ppid:" + "00" * 16], ["instance:" + platform["ppid"]], ["ppid:"], [ours[0].upper()], []):
        with pytest.raises(EvidenceError) as refused:
            appraise(tee, hardware=listed)
        assert refused.value.step == "hardware"
