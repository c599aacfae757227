"""The attacker shows evidence of one kind as evidence of another, or has the wrong enclave or document vouch for it."""

import json
import struct

import pytest
from quote_writer import ANCHOR, NOW, collateral_of, write_quote

from strongroom.attestation.facts import verify_quote


def step_of(quote: bytes, collateral: str) -> str:
    facts = verify_quote(quote, collateral=collateral, now=NOW, anchor=ANCHOR)
    assert (facts["verdict"], facts["claims"], bool(facts["hint"])) == ("rejected", {}, True)
    return facts["step"]


@pytest.mark.parametrize(("version", "tee", "other"), [(3, "sgx", "tdx"), (4, "tdx", "sgx"), (5, "tdx", "sgx")])
def test_the_other_tees_quoting_enclave_vouches_for_nothing(version: int, tee: str, other: str) -> None:
    assert step_of(write_quote(version, {}, quoting_enclave=other), collateral_of(tee)) == "quoting-enclave"


@pytest.mark.parametrize("document", ["qe_identity", "tcb_info"])
@pytest.mark.parametrize(("version", "tee", "other"), [(3, "sgx", "tdx"), (5, "tdx", "sgx")])
def test_collateral_put_together_from_both_tees_is_refused(version: int, tee: str, other: str, document: str) -> None:
    mine, theirs = json.loads(collateral_of(tee)), json.loads(collateral_of(other))
    mixed = mine | {name: theirs[name] for name in theirs if name.startswith(document)}
    assert step_of(write_quote(version, {}), json.dumps(mixed)) == "collateral"


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("claimed", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("tee_type", [0, 0x81])
def test_no_quote_reads_as_one_of_another_version_or_tee(version: int, claimed: int, tee_type: int) -> None:
    own = (version, 0 if version == 3 else 0x81)
    if (claimed, tee_type) == own:
        pytest.skip("its own kind")
    quote = write_quote(version, {}, header=struct.pack("<HHI", claimed, 2, tee_type))
    for tee in ("sgx", "tdx"):
        assert step_of(quote, collateral_of(tee)) in ("format", "collateral", "quoting-enclave")


@pytest.mark.parametrize("body", [(1, 384), (1, 648), (2, 648), (3, 584), (4, 648)])
def test_the_frame_of_a_version_5_quote_names_its_body_truly(body: tuple[int, int]) -> None:
    quote = bytearray(write_quote(5, {}))
    quote[48:54] = struct.pack("<HI", *body)
    assert step_of(bytes(quote), collateral_of("tdx")) == "format"
