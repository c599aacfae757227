"""SEV-SNP reports get the verdict they deserve, each refusal naming its step; here under a vendor of our own."""

from datetime import UTC, datetime, timedelta

import pytest
from amd_vendor import CHIP, AmdVendor, certificate_table
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.anchors import INTEL
from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import StaleCollateralError
from strongroom.errors import EvidenceError, PolicyError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = bytes(range(64))
AMD = {
    name: AmdVendor(name, tcb={"bootloader": 4, "tee": 1, "snp": 24, "microcode": 219}) for name in ("Milan", "Genoa")
}
AMD["Turin"] = AmdVendor("Turin", tcb={"fmc": 2, "bootloader": 1, "tee": 1, "snp": 4, "microcode": 73})
MILAN = AMD["Milan"]
GOOD = """
[snp_minimum.Milan]
bootloader = 4
snp = 24
microcode = 219
"""


def judge(report: bytes, collateral: str, *, vendor: AmdVendor = MILAN, policy: str | None = None, now=NOW) -> dict:
    chosen = None if policy is None else AppraisalPolicy.parse(policy)
    return verify_quote(report, collateral=collateral, now=now, anchor=vendor.anchor, policy=chosen)


@pytest.mark.parametrize("generation", AMD)
@pytest.mark.parametrize("version", [2, 3, 5])
def test_a_sound_report_of_every_generation_verifies(generation: str, version: int) -> None:
    vendor = AMD[generation]
    facts = judge(vendor.report(report_data=ASKED, version=version), vendor.endorsements(), vendor=vendor)
    assert (facts["verdict"], facts["reason"]) == ("verified", None)
    assert facts["claims"]["tcb"]["reported"] == {"fmc": 0, **vendor.tcb}
    assert facts["claims"]["report_data"] == ASKED.hex()
    assert facts["claims"]["measurement"] == "snp:" + (b"M" * 48).hex()
    assert facts["claims"]["platform"]["chip_id"] == CHIP.hex()[: 16 if generation == "Turin" else 128]
    assert facts["simulated"] is True


def test_a_report_under_a_providers_key_verifies_and_names_the_provider_instead_of_the_chip() -> None:
    report = MILAN.report(flags=1 << 2)
    facts = judge(report, MILAN.endorsements(MILAN.vlek()))
    assert facts["verdict"] == "verified"
    assert facts["claims"]["platform"] == {
        "generation": "Milan",
        "key": "VLEK",
        "chip_id": "",
        "csp": "CN=cloud.example",
    }
    assert judge(report, MILAN.endorsements())["step"] == "certificates"
    assert judge(MILAN.report(), MILAN.endorsements(MILAN.vlek()))["step"] == "certificates"


@pytest.mark.parametrize("generation", AMD)
def test_the_chip_id_is_read_bare_as_amd_writes_it_and_wrapped_as_amd_specifies_it(generation: str) -> None:
    amd = AMD[generation]
    for wrapped in (False, True):
        facts = judge(amd.report(), amd.endorsements(amd.vcek(wrapped=wrapped)), vendor=amd)
        assert (facts["verdict"], len(facts["claims"]["platform"]["chip_id"])) == (
            "verified",
            16 if generation == "Turin" else 128,
        )
    short = amd.vcek(chip=b"abcd", wrapped=True)
    assert judge(amd.report(), amd.endorsements(short), vendor=amd)["step"] == "certificates"


def test_a_missing_certificate_is_named_by_its_address_at_amd() -> None:
    hint = judge(AMD["Turin"].report(version=5), "", vendor=AMD["Turin"])["hint"]
    assert hint.startswith("fetch https://kdsintf.amd.com/vcek/v1/Turin/")
    chip, _, query = hint.rpartition("/")[2].partition("?")
    assert (len(chip), query.startswith("fmcSPL="), "ucodeSPL=" in query) == (16, True, True)
    assert "Genoa" in judge(MILAN.report(version=2), "")["hint"]
    assert "MASK_CHIP_ID" in judge(MILAN.report(chip=bytes(64)), "")["hint"]


def test_of_several_certificates_the_reports_own_is_used_and_no_other() -> None:
    others = MILAN.vcek(chip=b"\7" * 64), MILAN.vlek()
    authorities = MILAN.ask, MILAN.asvk, MILAN.ark
    for leaves, step in (((*others, MILAN.vcek()), None), ((MILAN.vcek(), *others), None), (others, "certificates")):
        pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in (*leaves, *authorities))
        assert judge(MILAN.report(flags=1 << 2), pem)["step"] is None
        assert judge(MILAN.report(), pem)["step"] == step


def test_certificates_in_pem_may_have_words_around_them() -> None:
    chain = (MILAN.vcek(), MILAN.ask)
    pem = "".join(f"# a chain\nsubject=CN = any\n{one.public_bytes(Encoding.PEM).decode()}" for one in chain)
    assert judge(MILAN.report(), pem)["verdict"] == "verified"


def test_the_chips_certificate_may_come_beside_the_report() -> None:
    table = certificate_table(
        [
            ("4ab7b379-bbac-4fe4-a02f-05aef327c782", MILAN.ask.public_bytes(Encoding.DER)),
            ("63da758d-e664-4564-adc5-f4b93be8accd", MILAN.vcek().public_bytes(Encoding.DER)),
            ("00112233-4455-6677-8899-aabbccddeeff", b"unknown"),
        ]
    )
    assert judge(MILAN.report() + table + bytes(100), "")["verdict"] == "verified"
    assert judge(MILAN.report(), "")["step"] == "collateral"
    assert judge(MILAN.report() + table[:30], "")["step"] == "format"
    assert judge(MILAN.report() + b"junk", MILAN.endorsements())["step"] == "format"
    impostor = AmdVendor("Milan")
    stranger = certificate_table([("63da758d-e664-4564-adc5-f4b93be8accd", impostor.vcek().public_bytes(Encoding.DER))])
    assert judge(impostor.report() + stranger, "")["step"] == "certificates"


@pytest.mark.parametrize(
    ("changes", "step", "words"),
    [
        ({"policy": 0x30000 | 1 << 19}, "attributes", "Debug mode"),
        ({"policy": 0x30000 | 1 << 18}, "attributes", "migration agent"),
        ({"policy": 0x10000}, "attributes", "bit 17"),
        ({"flags": 1 << 1}, "signature", "masked"),
        ({"flags": 7 << 2}, "signature", "masked"),
        ({"flags": 3 << 2}, "certificates", "unknown"),
        ({"flags": 1 << 9}, "format", "flags"),
        ({"reserved": 1}, "format", "zero"),
        ({"algorithm": 2}, "format", "signature_algo"),
        ({"signed": False}, "signature", "not signed"),
    ],
    ids=str,
)
def test_a_report_with_one_thing_wrong_is_rejected_at_its_step(changes: dict, step: str, words: str) -> None:
    facts = judge(MILAN.report(**changes), MILAN.endorsements())
    assert (facts["verdict"], facts["step"]) == ("rejected", step)
    assert words in facts["reason"]


def test_a_report_with_any_bit_flipped_is_rejected() -> None:
    report, endorsements = MILAN.report(), MILAN.endorsements()
    for offset in range(0, 0x2A0 + 144, 7):
        flipped = bytearray(report)
        flipped[offset] ^= 0x20
        assert judge(bytes(flipped), endorsements)["verdict"] == "rejected", offset


@pytest.mark.parametrize(
    ("collateral", "step", "words"),
    [
        (lambda: MILAN.endorsements(MILAN.vcek(microcode=220)), "tcb", "microcode 219"),
        (lambda: MILAN.endorsements(MILAN.vcek(chip=bytes(64))), "certificates", "chip"),
        (AMD["Genoa"].endorsements, "certificates", "trust anchor"),
        (lambda: AmdVendor("Milan").endorsements(), "certificates", "trust anchor"),
        (lambda: MILAN.endorsements(MILAN.ask), "collateral", "VCEK"),
        (lambda: "{}", "collateral", "AMD"),
        (lambda: "[", "collateral", "JSON"),
        (lambda: MILAN.endorsements(crl=MILAN.crl(now=NOW, revoke=MILAN.ask)), "certificates", "revoked"),
        (lambda: MILAN.endorsements(crl=MILAN.crl(now=NOW - timedelta(days=400))), "collateral", "CRL"),
        (lambda: MILAN.endorsements(crl=MILAN.crl(now=NOW + timedelta(days=400))), "collateral", "CRL"),
        (lambda: MILAN.endorsements(crl=AmdVendor("Milan").crl(now=NOW)), "collateral", "root"),
    ],
)
def test_endorsements_with_one_thing_wrong_are_rejected_at_their_step(collateral, step: str, words: str) -> None:
    facts = judge(MILAN.report(), collateral())
    assert (facts["verdict"], facts["step"]) == ("rejected", step)
    assert words in facts["reason"]


def test_a_report_of_a_simulated_vendor_never_verifies_as_genuine() -> None:
    facts = verify_quote(MILAN.report(), collateral=MILAN.endorsements(), now=NOW, anchor=INTEL)
    assert (facts["verdict"], facts["step"]) == ("rejected", "certificates")


def test_a_generation_that_the_certificate_does_not_name_is_rejected() -> None:
    genoa_shaped = AmdVendor("Milan")
    genoa_shaped.keys.update(MILAN.keys)
    report = bytearray(MILAN.report())
    report[0x189] = 0x11
    assert judge(bytes(report), MILAN.endorsements())["step"] == "certificates"


def test_firmware_is_rated_by_the_policys_own_minimum_and_nothing_else() -> None:
    endorsements = MILAN.endorsements(crl=MILAN.crl(now=NOW))
    facts = judge(MILAN.report(), endorsements, policy="")
    assert (facts["accepted"], facts["status"]) == (False, "Unrated")
    assert facts["reasons"][0]["step"] == "tcb"
    assert "snp_minimum.Milan" in facts["reasons"][0]["hint"]
    facts = judge(MILAN.report(), endorsements, policy=GOOD)
    assert (facts["accepted"], facts["status"], facts["reasons"]) == (True, "UpToDate", [])
    facts = judge(MILAN.report(), endorsements, policy=GOOD.replace("219", "220"))
    assert (facts["accepted"], facts["status"]) == (False, "OutOfDate")
    assert "committed microcode is 219, needs 220" in facts["reasons"][0]["reason"]


def test_a_policy_refuses_what_it_does_not_name() -> None:
    with_crl = MILAN.endorsements(crl=MILAN.crl(now=NOW))

    def reasons(report: bytes, endorsements: str = with_crl, **policy: str) -> list[str]:
        extra = "\n".join(f"{name} = {value}" for name, value in policy.items())
        return [reason["step"] for reason in judge(report, endorsements, policy=extra + GOOD)["reasons"]]

    assert reasons(MILAN.report()) == []
    assert reasons(MILAN.report(), MILAN.endorsements()) == ["collateral"]
    assert reasons(MILAN.report(), MILAN.endorsements(), unknown_revocation="true") == []
    assert reasons(MILAN.report(vmpl=1)) == ["attributes"]
    assert reasons(MILAN.report(vmpl=1), vmpl="[0, 1]") == []
    assert reasons(MILAN.report(policy=0x30000 | 1 << 40)) == ["attributes"]
    assert reasons(MILAN.report(), smt="false") == ["tcb"]
    assert reasons(MILAN.report(platform=0x05), unchecked_memory_aliases="false") == ["tcb"]
    assert reasons(MILAN.report(), measurements="[]") == ["measurement"]
    assert reasons(MILAN.report(), hardware='["chip:00"]') == ["hardware"]
    assert reasons(MILAN.report(), hardware=f'["chip:{CHIP.hex()}"]') == []
    assert reasons(MILAN.report(), body=f'{{host_data = ["{(b"H" * 32).hex()}"]}}') == []
    assert reasons(MILAN.report(), body='{host_data = ["00"]}') == ["measurement"]


@pytest.mark.parametrize(
    "text",
    ["vmpl = [4]", "vmpl = 0", "[snp_minimum.Rome]\nsnp = 1", "[snp_minimum.Milan]\nsnp = 256", "snp_minimum = 1",
     "[snp_minimum.Milan]\nspl = 1", "[snp_minimum]\nMilan = 3"],
)  # fmt: skip
def test_a_policy_for_guests_is_read_strictly(text: str) -> None:
    with pytest.raises(PolicyError):
        AppraisalPolicy.parse(text)


class Served:
    def __init__(self, text: str) -> None:
        self.text = text

    def collateral(self, quote: bytes) -> str:
        return self.text


def test_a_verifier_appraises_a_guest_and_compares_all_of_its_report_data() -> None:
    verifier = Verifier(
        MILAN.anchor,
        Served(MILAN.endorsements(crl=MILAN.crl(now=NOW))),
        memory=CollateralMemory(),
        policy=AppraisalPolicy.parse(GOOD),
    )
    evidence = Evidence.from_json(Evidence(tee="snp", quote=MILAN.report(report_data=ASKED)).to_json())
    result = verifier.appraise(evidence, report_data=ASKED, now=NOW)
    assert (result.tee, result.tcb_status, result.tier, result.simulated) == (
        "snp",
        "UpToDate",
        "contraindicated",
        True,
    )
    for wrong in (ASKED[:63] + b"x", bytes(64)):
        with pytest.raises(EvidenceError) as refused:
            verifier.appraise(evidence, report_data=wrong, now=NOW)
        assert refused.value.step == "report-data"
    for other in (
        Evidence(tee="tdx", quote=evidence.quote),
        Evidence(tee="snp", quote=evidence.quote, event_log=b"log"),
    ):
        with pytest.raises(EvidenceError) as refused:
            verifier.appraise(other, report_data=ASKED, now=NOW)
        assert refused.value.step == "format"


def test_once_a_revocation_list_was_seen_neither_an_older_one_nor_none_will_do() -> None:
    source = Served(MILAN.endorsements(crl=MILAN.crl(now=NOW, number=8)))
    policy = AppraisalPolicy.parse("unknown_revocation = true\n" + GOOD)
    verifier = Verifier(MILAN.anchor, source, memory=CollateralMemory(), policy=policy)
    evidence = Evidence(tee="snp", quote=MILAN.report(report_data=ASKED))
    verifier.appraise(evidence, report_data=ASKED, now=NOW)
    for older in (MILAN.crl(now=NOW, number=7), b""):
        source.text = MILAN.endorsements(crl=older)
        with pytest.raises(StaleCollateralError, match="amd_crl"):
            verifier.appraise(evidence, report_data=ASKED, now=NOW)
