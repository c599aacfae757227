"""Evidence is appraised in a fixed order; the first failure names its step and what to do."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from strongroom.attestation import failures
from strongroom.attestation.appraisal import (
    INTEL,
    AppraisalPolicy,
    CollateralMemory,
    TrustAnchor,
    Verifier,
)
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.explain import explain_quote, explain_verdict
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import Step
from strongroom.attestation.simulated.faults import NO_FAULTS, Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.attestation.tiers import TrustTier
from strongroom.errors import EvidenceError, UsageError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"v" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
ASKED = bytes(range(64))
ENCLAVE = SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32)
DOMAIN = TdxFacts(mr_td=b"D" * 48, rtmrs=(b"0" * 48, b"1" * 48, b"2" * 48, b"3" * 48))


class Served:
    """A source that serves one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def collateral(self, quote: bytes) -> str:
        return self.text


def quote_of(tee: str, faults: Faults = NO_FAULTS, version: int = 4) -> bytes:
    vendor = VENDOR.impostor() if faults.wrong_root else VENDOR
    if tee == "sgx":
        return quote_sgx(vendor, ENCLAVE, report_data=ASKED, faults=faults)
    return quote_tdx(vendor, DOMAIN, report_data=ASKED, faults=faults, version=version)


def appraise(
    tee: str,
    faults: Faults = NO_FAULTS,
    *,
    policy: AppraisalPolicy | None = None,
    anchor: TrustAnchor = ANCHOR,
    report_data: bytes = ASKED,
    now: datetime = NOW,
):
    vendor = VENDOR.impostor() if faults.wrong_root else VENDOR
    verifier = Verifier(
        anchor, Served(vendor.collateral(tee, now=NOW, faults=faults)), memory=CollateralMemory(), policy=policy
    )
    return verifier.appraise(Evidence(tee=tee, quote=quote_of(tee, faults)), report_data=report_data, now=now)


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_a_sound_simulated_platform_passes_every_step_and_is_still_contraindicated(tee: str) -> None:
    result = appraise(tee)
    assert (result.tee, result.tcb_status, result.advisories) == (tee, "UpToDate", ())
    assert (result.simulated, result.tier) == (True, TrustTier.CONTRAINDICATED)
    assert result.measurement.startswith(f"{tee}:")
    assert result.evaluated_at == NOW
    assert result.collateral_digest.startswith("sha256:")
    assert result.to_json()["claims"]["report_data"] == ASKED.hex()


def test_a_version_5_quote_of_a_trust_domain_verifies() -> None:
    facts = verify_quote(
        quote_of("tdx", version=5), collateral=VENDOR.collateral("tdx", now=NOW), now=NOW, anchor=ANCHOR
    )
    assert (facts["verdict"], facts["claims"]["quote_version"]) == ("verified", 5)
    assert facts["claims"]["body"]["mrservicetd"] == "00" * 48


@pytest.mark.parametrize(
    ("tee", "faults", "step", "words"),
    [
        ("sgx", Faults(debug=True), Step.ATTRIBUTES, "Debug mode"),
        ("tdx", Faults(debug=True), Step.ATTRIBUTES, "Debug mode"),
        ("tdx", Faults(sept_ve_off=True), Step.ATTRIBUTES, "SEPT_VE_DISABLE"),
        ("sgx", Faults(provision_key=True), Step.ATTRIBUTES, "0x10"),
        ("sgx", Faults(tcb_status="OutOfDate", advisories=("INTEL-SA-00960",)), Step.TCB, "INTEL-SA-00960"),
        ("tdx", Faults(tcb_status="SWHardeningNeeded"), Step.TCB, "SWHardeningNeeded"),
        ("sgx", Faults(tcb_status="Revoked"), Step.TCB, "Revoked"),
        ("sgx", Faults(revoked="pck"), Step.CERTIFICATES, "is revoked by"),
        ("sgx", Faults(revoked="platform-ca"), Step.CERTIFICATES, "is revoked by"),
        ("tdx", Faults(revoked="tcb-signer"), Step.CERTIFICATES, "is revoked by"),
        ("sgx", Faults(expired_collateral=True), Step.COLLATERAL, "expired"),
        ("sgx", Faults(future_collateral=True), Step.COLLATERAL, "future"),
        ("tdx", Faults(wrong_root=True), Step.COLLATERAL, "trust anchor"),
        ("sgx", Faults(tcb_info_signed_by_pck=True), Step.COLLATERAL, "tcb_info"),
        ("tdx", Faults(qe_identity_signed_by_pck=True), Step.COLLATERAL, "qe_identity"),
        ("sgx", Faults(other_fmspc=True), Step.COLLATERAL, "Fmspc mismatch"),
        ("sgx", Faults(qe_out_of_date=True), Step.TCB, "OutOfDate"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_each_fault_is_refused_at_its_step_with_a_remedy(tee: str, faults: Faults, step: Step, words: str) -> None:
    with pytest.raises(EvidenceError, match=words) as refused:
        appraise(tee, faults)
    assert refused.value.step == step
    assert refused.value.hint
    assert refused.value.exit_code == 4


def test_simulated_evidence_never_verifies_under_the_vendors_root() -> None:
    for tee in ("sgx", "tdx"):
        with pytest.raises(EvidenceError, match="trust anchor"):
            appraise(tee, anchor=INTEL)


def test_a_root_that_is_not_compiled_in_can_only_be_a_simulated_vendors() -> None:
    with pytest.raises(UsageError, match="not a hardware vendor's"):
        TrustAnchor(root_der=VENDOR.root_der, simulated=False)
    assert TrustAnchor(root_der=INTEL.root_der, simulated=True).simulated  # trusting less is always possible
    with pytest.raises(UsageError, match="not a certificate"):
        TrustAnchor(root_der=b"root", simulated=True)


@pytest.mark.parametrize("place", [0, 31, 63])
def test_report_data_is_compared_to_its_last_byte(place: int) -> None:
    other = bytearray(ASKED)
    other[place] ^= 1
    with pytest.raises(EvidenceError, match="REPORTDATA") as refused:
        appraise("sgx", report_data=bytes(other))
    assert refused.value.step == Step.REPORT_DATA


def test_report_data_of_another_length_or_a_time_without_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UsageError, match="63 bytes"):
        appraise("sgx", report_data=ASKED[:63])
    with pytest.raises(UsageError, match="zone"):
        appraise("sgx", now=NOW.replace(tzinfo=None))


def test_evidence_labelled_as_another_tee_is_refused() -> None:
    verifier = Verifier(ANCHOR, Served(VENDOR.collateral("sgx", now=NOW)), memory=CollateralMemory())
    with pytest.raises(EvidenceError, match=r"evidence\.tee"):
        verifier.appraise(Evidence(tee="tdx", quote=quote_of("sgx")), report_data=ASKED, now=NOW)


def test_sgx_collateral_does_not_serve_for_tdx() -> None:
    facts = verify_quote(quote_of("tdx"), collateral=VENDOR.collateral("sgx", now=NOW), now=NOW, anchor=ANCHOR)
    assert (facts["step"], facts["verdict"]) == (Step.COLLATERAL, "rejected")
    assert "expected 'TDX'" in facts["reason"]


def test_facts_list_every_objection_of_a_policy_while_appraisal_stops_at_the_first() -> None:
    faults = Faults(tcb_status="OutOfDate", advisories=("INTEL-SA-00960",), provision_key=True)
    policy = AppraisalPolicy(measurements=frozenset(), hardware=frozenset({"ppid:00"}), minimum_evaluation_number=99)
    facts = verify_quote(
        quote_of("sgx", faults),
        collateral=VENDOR.collateral("sgx", now=NOW, faults=faults),
        now=NOW,
        anchor=ANCHOR,
        policy=policy,
    )
    assert (facts["verdict"], facts["status"], facts["accepted"]) == ("verified", "OutOfDate", False)
    assert [objection["step"] for objection in facts["reasons"]] == [
        "collateral",
        "tcb",
        "attributes",
        "measurement",
        "hardware",
    ]
    assert "PCE SVN is 13, needs 14: update the platform's DCAP packages" in facts["reasons"][1]["hint"]
    assert facts["tier"] == "contraindicated"
    with pytest.raises(EvidenceError) as refused:
        appraise("sgx", faults, policy=policy)
    assert refused.value.step == "collateral"
    text = explain_verdict(facts)
    assert "not accepted by the policy" in text
    assert "simulated" in text


def test_an_accepted_status_that_is_not_up_to_date_needs_its_advisories_accepted_too() -> None:
    faults = Faults(tcb_status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    statuses = frozenset({"UpToDate", "SWHardeningNeeded"})
    with pytest.raises(EvidenceError, match="INTEL-SA-00615"):
        appraise("sgx", faults, policy=AppraisalPolicy(statuses=statuses))
    policy = AppraisalPolicy(statuses=statuses, advisories=frozenset({"INTEL-SA-00615"}))
    assert appraise("sgx", faults, policy=policy).tcb_status == "SWHardeningNeeded"
    denied = AppraisalPolicy(
        statuses=statuses, advisories=policy.advisories, denied_advisories=frozenset({"INTEL-SA-00615"})
    )
    with pytest.raises(EvidenceError, match="denies"):
        appraise("sgx", faults, policy=denied)


def test_an_out_of_date_platform_is_accepted_only_inside_the_grace_window() -> None:
    faults = Faults(tcb_status="OutOfDate")
    statuses = frozenset({"OutOfDate"})
    with pytest.raises(EvidenceError, match="grace is 0 days"):
        appraise("sgx", faults, policy=AppraisalPolicy(statuses=statuses))
    lenient = AppraisalPolicy(statuses=statuses, out_of_date_grace=timedelta(days=3650))
    assert appraise("sgx", faults, policy=lenient).tcb_status == "OutOfDate"
    assert appraise("sgx", faults, policy=AppraisalPolicy.leaving_tcb_to_caller()).tcb_status == "OutOfDate"


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"measurements": frozenset()}, Step.MEASUREMENT),
        ({"measurements": frozenset({"sgx:" + "00" * 32})}, Step.MEASUREMENT),
        ({"hardware": frozenset()}, Step.HARDWARE),
        ({"body": {"mrsigner": frozenset({"00" * 32})}}, Step.MEASUREMENT),
        ({"body": {"mrtd": frozenset({"00" * 48})}}, Step.MEASUREMENT),
        ({"collateral_max_age": timedelta(hours=1)}, Step.COLLATERAL),
        ({"minimum_evaluation_number": 21}, Step.COLLATERAL),
    ],
    ids=repr,
)
def test_each_rule_of_a_policy_can_refuse(change: dict, step: Step) -> None:
    with pytest.raises(EvidenceError) as refused:
        appraise("sgx", policy=AppraisalPolicy(**change))
    assert refused.value.step == step


def test_reference_values_and_hardware_on_the_lists_are_accepted() -> None:
    platform = appraise("sgx").claims.hardware_ids
    assert [name.partition(":")[0] for name in platform] == ["ppid", "instance"]
    for name in platform:
        policy = AppraisalPolicy(
            measurements=frozenset({"sgx:" + "45" * 32}),
            hardware=frozenset({name}),
            body={"mrsigner": frozenset({"53" * 32}), "isvprodid": frozenset({"1"})},
        )
        assert appraise("sgx", policy=policy).measurement == "sgx:" + "45" * 32


def test_a_quote_is_explained_without_being_believed() -> None:
    said = explain_quote(quote_of("sgx", Faults(debug=True)))
    assert said["verified"] is False
    assert any("DEBUG" in concern for concern in said["concerns"])
    assert "REPORTDATA" not in str(said["concerns"])
    assert said["platform"]["ca"] == "platform"


def test_every_step_has_its_class() -> None:
    classes: dict[str, Callable[..., EvidenceError]] = {}
    todo = list(EvidenceError.__subclasses__())
    while todo:
        one = todo.pop()
        todo += one.__subclasses__()
        if hasattr(one, "at"):
            classes.setdefault(one.at, one)
    assert set(classes) == set(Step)


def test_every_refusal_says_what_to_do_even_where_its_raiser_does_not() -> None:
    classes = [one for one in vars(failures).values() if isinstance(one, type) and issubclass(one, EvidenceError)]
    made = [one("words") for one in classes if one not in (EvidenceError, failures.MalformedEvidenceError)]
    made.append(failures.MalformedEvidenceError(field="a", got="b", expected="c"))
    assert [type(one).__name__ for one in made if not one.hint and type(one).__name__[0] != "_"] == []


def test_a_chain_in_the_collateral_is_for_quotes_without_one_and_shuts_out_no_other_machine() -> None:
    own, text = quote_of("sgx"), VENDOR.collateral("sgx", now=NOW)
    others = json.dumps({**json.loads(text), "pck_certificate_chain": VENDOR.impostor().pck_chain.decode()})
    mine = json.dumps({**json.loads(text), "pck_certificate_chain": VENDOR.pck_chain.decode()})
    kind = own.index(VENDOR.pck_chain) - 6  # certification data: its type as u16, its length as u32, the chain
    nameless = own[:kind] + (3).to_bytes(2, "little") + own[kind + 2 :]
    for quote, collateral, step in (
        (own, others, None),
        (own, mine, None),
        (nameless, mine, None),
        (nameless, others, "certificates"),
        (nameless, text, "certificates"),
    ):
        assert verify_quote(quote, collateral=collateral, now=NOW, anchor=ANCHOR)["step"] == step
