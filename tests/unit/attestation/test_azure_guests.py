"""An Azure guest is believed only if hardware, runtime data and vTPM vouch for each other, and both name the nonce."""

import json
from datetime import UTC, datetime

import pytest
from amd_vendor import AmdVendor
from azure_guest import PCRS, evidence
from cryptography.hazmat.primitives.asymmetric import rsa

from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.facts import verify_quote
from strongroom.errors import EvidenceError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = bytes(range(64))
AMD = AmdVendor("Milan")
OTHER_KEY = rsa.generate_private_key(65537, 2048)
POLICY = "[snp_minimum.Milan]\nsnp = 24\n"


def named(value: object) -> str:
    """Name a case the same in every process: what is random stays out of it."""
    return ", ".join(map(str, value)) if isinstance(value, dict) else str(value)[:40]


class Served:
    def collateral(self, quote: bytes) -> str:
        return AMD.endorsements(crl=AMD.crl(now=NOW))


def judge(data: bytes) -> dict:
    return verify_quote(data, collateral=AMD.endorsements(), now=NOW, anchor=AMD.anchor)


def appraise(data: bytes, *, asked: bytes = ASKED, policy: str = POLICY, tee: str = "azure-snp"):
    verifier = Verifier(AMD.anchor, Served(), memory=CollateralMemory(), policy=AppraisalPolicy.parse(policy))
    return verifier.appraise(Evidence(tee=tee, quote=data), report_data=asked, now=NOW)


def test_a_sound_guest_is_verified_with_both_bindings_and_its_registers() -> None:
    result = appraise(evidence(AMD, asked=ASKED))
    claims = result.to_json()["claims"]
    assert (result.tee, result.tcb_status, result.simulated) == ("azure-snp", "UpToDate", True)
    assert claims["body"]["both_bindings"] is True
    assert claims["body"]["pcr4"] == PCRS[4].hex()
    assert claims["hardware"]["tee"] == "snp"


def test_the_measurement_follows_the_registers_of_boot_and_not_those_a_guest_can_reset() -> None:
    def measured(number: int) -> str:
        pcrs = tuple(b"x" * 32 if index == number else value for index, value in enumerate(PCRS))
        return judge(evidence(AMD, asked=ASKED, pcrs=pcrs, listed=pcrs))["claims"]["measurement"]

    plain = judge(evidence(AMD, asked=ASKED))["claims"]["measurement"]
    assert all(measured(number) != plain for number in (0, 4, 7, 9, 11, 14))
    assert all(measured(number) == plain for number in (10, 15, 16, 23))


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"signer": OTHER_KEY}, "signature"),
        ({"committed": b"other runtime data"}, "signature"),
        ({"listed": (*PCRS[:23], b"x" * 32)}, "measurement"),
        ({"listed": PCRS[:23]}, "format"),
        ({"magic": b"fake"}, "format"),
        ({"kind": 0x8017}, "format"),
        ({"selection": b"\x03\xff\xff\x7f"}, "format"),
    ],
    ids=named,
)
def test_a_guest_with_one_link_missing_is_rejected_at_its_step(changes: dict, step: str) -> None:
    facts = judge(evidence(AMD, asked=ASKED, **changes))
    assert (facts["verdict"], facts["step"]) == ("rejected", step)


def test_evidence_of_which_only_one_binding_names_the_session_is_refused() -> None:
    for data in (evidence(AMD, asked=ASKED, user_data=bytes(64)), evidence(AMD, asked=bytes(64), user_data=ASKED)):
        assert judge(data)["verdict"] == "verified"  # genuine, but bound to nobody
        with pytest.raises(EvidenceError) as refused:
            appraise(data)
        assert refused.value.step == "report-data"
    with pytest.raises(EvidenceError) as refused:
        appraise(evidence(AMD, asked=ASKED), asked=bytes(64))
    assert refused.value.step == "report-data"


def test_a_policy_may_pin_a_register_and_another_tee_is_not_accepted_in_its_place() -> None:
    pinned = f'body = {{pcr7 = ["{PCRS[7].hex()}"], both_bindings = ["True"]}}\n' + POLICY
    appraise(evidence(AMD, asked=ASKED), policy=pinned)
    with pytest.raises(EvidenceError, match="pcr8"):
        appraise(evidence(AMD, asked=ASKED), policy='body = {pcr8 = ["00"]}\n' + POLICY)
    with pytest.raises(EvidenceError, match="azure-snp"):
        appraise(evidence(AMD, asked=ASKED), tee="azure-tdx")


@pytest.mark.parametrize("member", ["hcl_report", "tpm_quote"])
def test_malformed_evidence_is_rejected_by_its_format(member: str) -> None:
    sound = json.loads(evidence(AMD, asked=ASKED))
    for wrong in (None, 7, "", "!!", [300], {}, [], "SENMQQ"):
        facts = judge(json.dumps({**sound, member: wrong}).encode())
        assert (facts["verdict"], facts["step"]) == ("rejected", "format"), wrong
    assert judge(b'{"hcl_report"')["step"] == "format"
