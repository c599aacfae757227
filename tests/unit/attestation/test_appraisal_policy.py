"""An appraisal policy is read strictly and refuses attributes that void protection."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import EVERYTHING, AppraisalPolicy
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.attestation.verification import open_evidence, verify_opened
from strongroom.errors import PolicyError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(b"a" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)


def claims_of(tee: str):
    quote = (
        quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
        if tee == "sgx"
        else quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=bytes(64))
    )
    collateral = parse_collateral(VENDOR.collateral(tee, now=NOW))
    opened = open_evidence(quote, choose=lambda _: collateral, anchor=ANCHOR, now=NOW)
    return verify_opened(opened, quote, anchor=ANCHOR, now=NOW)


def with_report(claims, **fields: object):
    """Return the claims as if the verified report had said something else."""
    return replace(claims, quote=replace(claims.quote, report=replace(claims.quote.report, **fields)))


@pytest.mark.parametrize(
    ("tee", "fields"),
    [
        ("sgx", {"flags": 0x84}),
        ("sgx", {"flags": 0x81}),
        ("sgx", {"flags": 0x95}),
        ("sgx", {"flags": 0xA5}),
        ("sgx", {"flags": 0x85 | 1 << 40}),
        ("sgx", {"xfrm": 0}),
        ("sgx", {"xfrm": 1}),
        ("sgx", {"xfrm": 0x1E7}),
        ("tdx", {"td_attributes": 1 << 28 | 1 << 31}),
        ("tdx", {"td_attributes": 1 << 28 | 1 << 63}),
        ("tdx", {"td_attributes": 1 << 28 | 1 << 29}),
        ("tdx", {"td_attributes": 1 << 28 | 1 << 5}),
        ("tdx", {"td_attributes": 0}),
        ("tdx", {"xfam": 0}),
        ("tdx", {"xfam": 0x061AE7 | 1 << 8}),
        ("tdx", {"xfam": 0x061AE7 | 1 << 15}),
    ],
    ids=repr,
)
def test_attributes_and_extended_state_outside_the_mask_are_refused(tee: str, fields: dict) -> None:
    sound = claims_of(tee)
    assert AppraisalPolicy().evaluate(sound, now=NOW) == ()
    objections = AppraisalPolicy().evaluate(with_report(sound, **fields), now=NOW)
    assert {objection.step for objection in objections} == {"attributes"}


def test_features_are_accepted_only_by_name() -> None:
    domain = claims_of("tdx")
    perfmon = with_report(domain, td_attributes=1 << 28 | 1 << 63)
    assert AppraisalPolicy(perfmon=True).evaluate(perfmon, now=NOW) == ()
    keys = with_report(domain, td_attributes=1 << 28 | 1 << 30)
    assert AppraisalPolicy(protection_keys=False).evaluate(keys, now=NOW)
    provisioned = with_report(claims_of("sgx"), flags=0x95)
    assert AppraisalPolicy(provision_key=True).evaluate(provisioned, now=NOW) == ()


@pytest.mark.parametrize("feature", ["smt", "dynamic_platform", "cached_keys"])
def test_platform_features_are_accepted_unless_the_policy_says_no(feature: str) -> None:
    sound = claims_of("tdx")
    has = replace(sound, platform=replace(sound.platform, **{feature: "true"}))
    assert AppraisalPolicy().evaluate(has, now=NOW) == ()
    (objection,) = AppraisalPolicy(**{feature: False}).evaluate(has, now=NOW)
    assert (objection.step, feature in objection.hint) == ("tcb", True)


def test_a_policy_is_read_from_toml() -> None:
    policy = AppraisalPolicy.parse("""
        statuses = ["UpToDate", "SWHardeningNeeded"]
        advisories = ["INTEL-SA-00615"]
        out_of_date_grace_days = 14
        collateral_max_age_days = 7
        minimum_evaluation_number = 17
        hardware = ["ppid:00"]
        measurements = ["sgx:00"]
        smt = false
        [body]
        isvprodid = [1, 2]
    """)
    assert policy.statuses == {"UpToDate", "SWHardeningNeeded"}
    assert (policy.out_of_date_grace, policy.collateral_max_age) == (timedelta(days=14), timedelta(days=7))
    assert (policy.smt, policy.hardware, policy.body) == (False, {"ppid:00"}, {"isvprodid": {"1", "2"}})
    assert AppraisalPolicy.parse("") == AppraisalPolicy()


@pytest.mark.parametrize(
    "text",
    [
        "statuses = 'UpToDate'",
        "statuses = ['Revoked']",
        "statuses = ['uptodate']",
        "debug = true",
        "accept_everything = true",
        "smt = 'no'",
        "out_of_date_grace_days = -1",
        "out_of_date_grace_days = true",
        "collateral_max_age_days = 1e400",
        "measurements = [1]",
        "body = ['mrtd']",
        "[[",
    ],
)
def test_an_unknown_or_misspelled_policy_is_refused_and_never_skipped(text: str) -> None:
    with pytest.raises(PolicyError):
        AppraisalPolicy.parse(text)


def test_an_empty_list_denies_and_only_everything_admits_all() -> None:
    assert "x" not in AppraisalPolicy(measurements=frozenset()).measurements
    assert "x" in EVERYTHING
    assert repr(EVERYTHING) == "EVERYTHING"


def test_platform_and_quoting_enclave_each_have_a_grace_of_their_own() -> None:
    def reasons(faults: Faults, **grace: timedelta) -> list[str]:
        quote = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
        opened = open_evidence(
            quote,
            choose=lambda _: parse_collateral(VENDOR.collateral("sgx", now=NOW, faults=faults)),
            anchor=ANCHOR,
            now=NOW,
        )
        claims = verify_opened(opened, quote, anchor=ANCHOR, now=NOW)
        policy = AppraisalPolicy(statuses=frozenset({"UpToDate", "OutOfDate"}), **grace)
        return [str(objection) for objection in policy.evaluate(claims, now=NOW)]

    age = NOW - datetime(2025, 5, 14, tzinfo=UTC)
    enough, short = age + timedelta(days=1), age - timedelta(days=1)
    qe, platform = Faults(qe_out_of_date=True), Faults(tcb_status="OutOfDate")
    assert reasons(qe, qe_out_of_date_grace=enough) == []
    assert "quoting enclave" in reasons(qe, qe_out_of_date_grace=short)[0]
    assert "quoting enclave" in reasons(qe, out_of_date_grace=enough)[0]
    assert reasons(platform, out_of_date_grace=enough) == []
    assert "platform's TCB" in reasons(platform, qe_out_of_date_grace=enough)[0]
    assert "platform's TCB" in reasons(platform, out_of_date_grace=short)[0]
