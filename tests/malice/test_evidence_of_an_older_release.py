"""The operator starts an older release of the right signer's program, in which a hole is known."""

import struct

import pytest
from quote_writer import ANCHOR, NOW, collateral_of, write_quote

from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import MeasurementError
from strongroom.errors import PolicyError

SIGNED = """
    [body]
    mrsigner = ["{signer}"]
    isvprodid = [7]
    [body_minimum]
    isvsvn = 3
"""
POLICY = AppraisalPolicy.parse(SIGNED.format(signer=(b"S" * 32).hex()))


class Served:
    def collateral(self, quote: bytes) -> str:
        return collateral_of("sgx")


def release(number: int) -> bytes:
    return write_quote(3, {256: struct.pack("<HH", 7, number)})


def test_releases_from_the_least_on_are_accepted_and_older_ones_are_not() -> None:
    verifier = Verifier(ANCHOR, Served(), memory=CollateralMemory(), policy=POLICY)
    for number in (3, 4, 65535):
        assert verifier.appraise(Evidence(tee="sgx", quote=release(number)), report_data=bytes(64), now=NOW)
    for number in (0, 2):
        with pytest.raises(MeasurementError, match=f"isvsvn is {number}, at least 3 accepted"):
            verifier.appraise(Evidence(tee="sgx", quote=release(number)), report_data=bytes(64), now=NOW)


def test_evidence_without_the_number_is_refused() -> None:
    facts = verify_quote(
        write_quote(4, {}),
        collateral=collateral_of("tdx"),
        now=NOW,
        anchor=ANCHOR,
        policy=AppraisalPolicy(body_minimum={"isvsvn": 0}),
    )
    assert (facts["accepted"], facts["reasons"][0]["reason"]) == (False, "isvsvn is absent, at least 0 accepted")


@pytest.mark.parametrize("text", ["body_minimum = 3", "[body_minimum]\nisvsvn = '3'", "[body_minimum]\nisvsvn = -1"])
def test_a_least_number_is_read_strictly(text: str) -> None:
    with pytest.raises(PolicyError):
        AppraisalPolicy.parse(text)
