"""The operator starts the genuine program so that the host can read, migrate or trace it."""

import os
import struct
from datetime import UTC, datetime

import pytest
from quote_writer import ANCHOR as WRITERS_ANCHOR
from quote_writer import collateral_of, write_quote

from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, TrustAnchor, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import AttributesError, DebugEvidenceError
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(os.urandom(32))
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)


class Served:
    def __init__(self, tee: str) -> None:
        self.tee = tee

    def collateral(self, quote: bytes) -> str:
        return VENDOR.collateral(self.tee, now=NOW)


def appraise(tee: str, faults: Faults, policy: AppraisalPolicy) -> object:
    quote = (
        quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64), faults=faults)
        if tee == "sgx"
        else quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=bytes(64), faults=faults)
    )
    verifier = Verifier(ANCHOR, Served(tee), memory=CollateralMemory(), policy=policy)
    return verifier.appraise(Evidence(tee=tee, quote=quote), report_data=bytes(64), now=NOW)


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_debug_is_refused_under_the_most_lenient_policy_there_is(tee: str) -> None:
    lenient = AppraisalPolicy.leaving_tcb_to_caller()
    with pytest.raises(DebugEvidenceError):
        appraise(tee, Faults(debug=True), lenient)


def test_page_fault_injection_is_refused_under_the_most_lenient_policy_there_is() -> None:
    with pytest.raises(AttributesError, match="SEPT_VE_DISABLE"):
        appraise("tdx", Faults(sept_ve_off=True), AppraisalPolicy.leaving_tcb_to_caller())


def test_the_provisioning_key_is_refused_unless_named() -> None:
    with pytest.raises(AttributesError):
        appraise("sgx", Faults(provision_key=True), AppraisalPolicy())
    assert appraise("sgx", Faults(provision_key=True), AppraisalPolicy(provision_key=True))


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("bit", [0, 1, 2, 3, 4, 5, 6, 7, 8, 26, 29, 32, 61])
def test_a_domain_that_can_be_read_watched_or_moved_is_refused_whatever_the_policy(version: int, bit: int) -> None:
    quote = write_quote(version, {120: struct.pack("<Q", 1 << 28 | 1 << bit)})
    facts = verify_quote(quote, collateral=collateral_of("tdx"), now=NOW, anchor=WRITERS_ANCHOR)
    assert (facts["verdict"], facts["step"], bool(facts["hint"])) == ("rejected", "attributes", True)


@pytest.mark.parametrize(
    "changes",
    [{16: b"\4"}, {19: b"\x80"}, {20: b"\1"}, {96: b"\1"}, {160: b"\1"}, {262: b"\1"}],
    ids=["MISCSELECT bit 2", "MISCSELECT bit 31", "reserved 1", "reserved 2", "reserved 3", "reserved 4"],
)
def test_an_enclave_with_features_nobody_knows_is_refused(changes: dict[int, bytes]) -> None:
    facts = verify_quote(
        write_quote(3, changes),
        collateral=collateral_of("sgx"),
        now=NOW,
        anchor=WRITERS_ANCHOR,
        policy=AppraisalPolicy.leaving_tcb_to_caller(),
    )
    assert (facts["accepted"], facts["reasons"][0]["step"]) == (False, "attributes")
