"""The attacker rents a genuine SEV-SNP machine, elsewhere or here, and bends what its host may choose."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "attestation"))

from amd_vendor import CHIP, AmdVendor

from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.errors import EvidenceError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TCB = {"bootloader": 4, "tee": 1, "snp": 24, "microcode": 219}
AMD = AmdVendor("Milan", tcb=TCB)
ASKED = bytes(range(64))
RULES = """
    hardware = ["csp:CN=cloud.example", "chip:{chip}"]
    [snp_minimum.Milan]
    bootloader = 4
    snp = 24
    microcode = 219
"""
POLICY = AppraisalPolicy.parse(RULES.format(chip=CHIP.hex()))
VLEK = 1 << 2


class Served:
    def __init__(self, text: str) -> None:
        self.text = text

    def collateral(self, quote: bytes) -> str:
        return self.text


def appraise(report: bytes, *, vendor: AmdVendor = AMD, leaf=None) -> str:
    """Return the step at which the evidence is refused, or nothing if it is accepted."""
    served = Served(vendor.endorsements(leaf, crl=vendor.crl(now=NOW)))
    verifier = Verifier(AMD.anchor, served, memory=CollateralMemory(), policy=POLICY)
    try:
        verifier.appraise(Evidence(tee="snp", quote=report), report_data=ASKED, now=NOW)
    except EvidenceError as error:
        return error.step if error.hint else "without a word of what to do"
    return ""


def test_the_machine_and_the_cloud_that_are_listed_are_accepted() -> None:
    assert appraise(AMD.report(report_data=ASKED)) == ""
    assert appraise(AMD.report(report_data=ASKED, flags=VLEK), leaf=AMD.vlek()) == ""


def test_another_clouds_machine_is_refused_under_its_own_genuine_key() -> None:
    elsewhere = AmdVendor("Milan", tcb=TCB, csp="CN=elsewhere.example")
    elsewhere.keys.update(AMD.keys)  # the same vendor made it
    assert appraise(elsewhere.report(report_data=ASKED, flags=VLEK), leaf=elsewhere.vlek()) == "hardware"


def test_another_chip_of_the_same_vendor_is_refused_with_its_own_key_and_with_the_listed_ones() -> None:
    other = AmdVendor("Milan", tcb=TCB)
    other.keys.update(AMD.keys)
    report = other.report(report_data=ASKED, chip=b"o" * 64)
    assert appraise(report, leaf=other.vcek(chip=b"o" * 64)) == "hardware"
    assert appraise(report, leaf=AMD.vcek()) == "certificates"
    assert appraise(other.report(report_data=ASKED), leaf=AMD.vcek()) == "signature"


@pytest.mark.parametrize("number", ["bootloader", "snp", "microcode"])
def test_firmware_that_the_host_rolled_back_is_refused_with_the_key_made_for_it(number: str) -> None:
    behind = AmdVendor("Milan", tcb={**TCB, number: TCB[number] - 1})
    behind.keys.update(AMD.keys)
    assert appraise(behind.report(report_data=ASKED), vendor=behind) == "tcb"
    assert appraise(behind.report(report_data=ASKED), leaf=behind.vcek(**{number: TCB[number]})) == "tcb"


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_report_from_a_lower_privilege_level_is_refused(level: int) -> None:
    assert appraise(AMD.report(report_data=ASKED, vmpl=level)) == "attributes"


@pytest.mark.parametrize("policy", [0x30000 | 1 << 18, 0x30000 | 1 << 19, 0x10000, 0x30000 | 1 << 40])
def test_a_guest_that_may_be_read_moved_or_started_in_unknown_ways_is_refused(policy: int) -> None:
    assert appraise(AMD.report(report_data=ASKED, policy=policy)) == "attributes"
