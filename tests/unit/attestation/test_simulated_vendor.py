"""The simulated vendor's quotes and collateral, read by the verifiers that read Intel's."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.anchors import INTEL
from strongroom.attestation.appraisal import AppraisalPolicy, TrustAnchor, Verifier
from strongroom.attestation.evidence import Evidence, SgxQuote, TdxQuote, parse_quote
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.simulated.faults import NO_FAULTS, Faults
from strongroom.attestation.simulated.pki import ORGANIZATION, Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.errors import EvidenceError

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
ENCLAVE = SgxFacts(mr_enclave=b"e" * 32, mr_signer=b"s" * 32, config_id=b"j" * 48, product=3)
DOMAIN = TdxFacts(mr_td=b"t" * 48, rtmrs=(b"0" * 48, b"1" * 48, b"2" * 48, bytes(48)), mr_config_id=b"j" * 48)


@pytest.fixture(scope="module")
def vendor():
    return Vendor(b"seed" * 8)


def quotes(vendor, faults=NO_FAULTS):
    return {
        "sgx v3": quote_sgx(vendor, ENCLAVE, report_data=REPORT_DATA, faults=faults),
        "tdx v4": quote_tdx(vendor, DOMAIN, report_data=REPORT_DATA, faults=faults),
        "tdx v5": quote_tdx(vendor, DOMAIN, report_data=REPORT_DATA, version=5, faults=faults),
    }


class Fixed:
    def __init__(self, text):
        self.text = text

    def collateral(self, quote):
        return self.text


def appraise(vendor, kind, *, faults=NO_FAULTS, anchor=None, policy=None, now=NOW):
    tee = kind[:3]
    signer = vendor.impostor() if faults.wrong_root else vendor
    quote = quotes(signer, faults)[kind]
    collateral = Fixed(signer.collateral(tee, now=NOW, faults=faults))
    anchor = anchor or TrustAnchor(root_der=vendor.root_der, simulated=True)
    verifier = Verifier(anchor, collateral, memory=CollateralMemory(), policy=policy)
    return verifier.appraise(Evidence(tee=tee, quote=quote), report_data=REPORT_DATA, now=now)


@pytest.mark.parametrize("kind", ["sgx v3", "tdx v4", "tdx v5"])
def test_a_sound_quote_is_verified_by_the_production_engine(vendor, kind):
    collateral = dcap_qvl.QuoteCollateralV3.from_json(vendor.collateral(kind[:3], now=NOW))
    report = dcap_qvl.verify_with_root_ca(quotes(vendor)[kind], collateral, vendor.root_der, int(NOW.timestamp()))
    assert report.status == "UpToDate"
    assert list(report.advisory_ids) == []


@pytest.mark.parametrize("kind", ["sgx v3", "tdx v4", "tdx v5"])
def test_a_sound_quote_passes_our_own_appraisal_and_stays_marked_simulated(vendor, kind):
    result = appraise(vendor, kind)
    assert result.simulated
    assert result.tier.value == "contraindicated"
    assert result.tcb_status == "UpToDate"


@pytest.mark.parametrize("kind", ["sgx v3", "tdx v4", "tdx v5"])
def test_no_simulated_quote_is_accepted_under_intels_root(vendor, kind):
    with pytest.raises(EvidenceError):
        appraise(vendor, kind, anchor=INTEL)


def test_intels_own_library_verifies_a_simulated_sgx_quote(vendor):
    qvl = pytest.importorskip("sgx_dcap_quote_verify")
    collateral = json.loads(vendor.collateral("sgx", now=NOW))

    def crl(name):
        return x509.load_der_x509_crl(bytes.fromhex(collateral[name])).public_bytes(Encoding.PEM).decode()

    def signed(wrapper, name):
        return f'{{"{wrapper}":{collateral[name]},"signature":"{collateral[name + "_signature"]}"}}'

    result = qvl.verify(
        vendor.root.pem,
        vendor.pck.pem,
        vendor.platform_ca.pem + vendor.root.pem,
        crl("root_ca_crl"),
        crl("pck_crl"),
        signed("tcbInfo", "tcb_info"),
        collateral["tcb_info_issuer_chain"],
        quotes(vendor)["sgx v3"],
        signed("enclaveIdentity", "qe_identity"),
        NOW,
    )
    assert result.ok
    assert result.quote_status == qvl.VerificationStatus.STATUS_OK


def test_quotes_carry_what_the_platform_knows(vendor):
    sgx, v4, v5 = (parse_quote(quote) for quote in quotes(vendor).values())
    assert isinstance(sgx, SgxQuote)
    assert sgx.measurement == f"sgx:{(b'e' * 32).hex()}"
    assert sgx.report.configid == b"j" * 48 + bytes(16)
    assert sgx.report_data == v4.report_data == v5.report_data == REPORT_DATA
    assert isinstance(v4, TdxQuote)
    assert v4.report.mrconfigid == b"j" * 48
    assert v4.measurement == v5.measurement


def test_the_root_follows_from_the_seed_alone(vendor):
    assert Vendor(b"seed" * 8).root_der == vendor.root_der
    assert Vendor(b"deed" * 8).root_der != vendor.root_der


def test_every_certificate_says_that_it_protects_nothing(vendor):
    for identity in (vendor.root, vendor.platform_ca, vendor.pck, vendor.tcb_signer):
        assert ORGANIZATION in identity.certificate.subject.rfc4514_string()
        assert "Intel" not in identity.certificate.subject.rfc4514_string()


def test_two_processes_issue_the_same_collateral_on_one_day_and_never_go_back(vendor):
    again = Vendor(b"seed" * 8)
    assert vendor.collateral("sgx", now=NOW) == again.collateral("sgx", now=NOW + timedelta(hours=14))

    def number(now, name):
        crl = x509.load_der_x509_crl(bytes.fromhex(json.loads(vendor.collateral("sgx", now=now))[name]))
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    for name in ("root_ca_crl", "pck_crl"):
        assert number(NOW + timedelta(days=1), name) > number(NOW, name)


def test_collateral_runs_out_after_a_month(vendor):
    appraise(vendor, "sgx v3", now=NOW + timedelta(days=29))
    with pytest.raises(EvidenceError, match=r"(?i)expire|window|out|valid"):
        appraise(vendor, "sgx v3", now=NOW + timedelta(days=31))


@pytest.mark.parametrize("kind", ["sgx v3", "tdx v4"])
@pytest.mark.parametrize(
    ("faults", "step"),
    [
        (Faults(debug=True), "attributes"),
        (Faults(tcb_status="OutOfDate", advisories=("INTEL-SA-00001",)), "tcb"),
        (Faults(tcb_status="SWHardeningNeeded", advisories=("INTEL-SA-00001",)), "tcb"),
        (Faults(tcb_status="ConfigurationNeeded"), "tcb"),
        (Faults(tcb_status="Revoked"), "tcb"),
        (Faults(qe_out_of_date=True), "tcb"),
        (Faults(revoked="pck"), "certificates"),
        (Faults(revoked="platform-ca"), "certificates"),
        (Faults(revoked="tcb-signer"), "certificates"),
        (Faults(expired_collateral=True), "collateral"),
        (Faults(future_collateral=True), "collateral"),
        (Faults(tcb_info_signed_by_pck=True), "collateral"),
        (Faults(qe_identity_signed_by_pck=True), "collateral"),
        (Faults(other_fmspc=True), "collateral"),
        (Faults(wrong_root=True), ("collateral", "certificates")),
    ],
    ids=str,
)
def test_every_fault_is_refused_at_its_own_step(vendor, kind, faults, step):
    with pytest.raises(EvidenceError) as refused:
        appraise(vendor, kind, faults=faults)
    steps = (step,) if isinstance(step, str) else step
    assert refused.value.step in steps, refused.value.message


def test_a_trust_domain_without_sept_ve_disable_is_refused(vendor):
    with pytest.raises(EvidenceError) as refused:
        appraise(vendor, "tdx v4", faults=Faults(sept_ve_off=True))
    assert refused.value.step == "attributes"


def test_an_enclave_with_the_provisioning_key_is_refused(vendor):
    with pytest.raises(EvidenceError) as refused:
        appraise(vendor, "sgx v3", faults=Faults(provision_key=True))
    assert refused.value.step == "attributes"


def test_a_named_advisory_may_be_accepted_by_policy(vendor):
    faults = Faults(tcb_status="SWHardeningNeeded", advisories=("INTEL-SA-00001",))
    policy = AppraisalPolicy(
        statuses=frozenset({"UpToDate", "SWHardeningNeeded"}), advisories=frozenset({"INTEL-SA-00001"})
    )
    assert appraise(vendor, "sgx v3", faults=faults, policy=policy).tcb_status == "SWHardeningNeeded"


def test_older_collateral_than_was_seen_is_refused(vendor):
    memory = CollateralMemory()
    anchor = TrustAnchor(root_der=vendor.root_der, simulated=True)
    evidence = Evidence(tee="sgx", quote=quotes(vendor)["sgx v3"])
    new, old = (Fixed(vendor.collateral("sgx", now=NOW, faults=Faults(evaluation_number=n))) for n in (20, 19))
    Verifier(anchor, new, memory=memory).appraise(evidence, report_data=REPORT_DATA, now=NOW)
    with pytest.raises(EvidenceError) as refused:
        Verifier(anchor, old, memory=memory).appraise(evidence, report_data=REPORT_DATA, now=NOW)
    assert refused.value.step == "collateral"


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_length_is_refused(vendor, size):
    with pytest.raises(ValueError, match="64 bytes"):
        quote_sgx(vendor, ENCLAVE, report_data=bytes(size))


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Vendor(b"short")
