"""The operator loads a TDX module that is not Intel's, is being debugged, or is older than the trust domain."""

import pytest
from quote_writer import ANCHOR, NOW, collateral_of, write_quote

from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.facts import verify_quote


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    "changes",
    [{64: b"\1" * 48}, {112: b"\1"}, {119: b"\x80"}],
    ids=["signed by somebody else", "a low attribute", "a high attribute"],
)
def test_a_module_with_another_signer_or_attributes_is_refused(version: int, changes: dict[int, bytes]) -> None:
    facts = verify_quote(write_quote(version, changes), collateral=collateral_of("tdx"), now=NOW, anchor=ANCHOR)
    assert (facts["verdict"], facts["step"], "module" in facts["hint"]) == ("rejected", "tcb", True)


def test_a_module_rolled_back_under_a_running_domain_is_refused() -> None:
    facts = verify_quote(write_quote(5, {584: bytes(16)}), collateral=collateral_of("tdx"), now=NOW, anchor=ANCHOR)
    assert (facts["verdict"], facts["step"], "update it" in facts["hint"]) == ("rejected", "tcb", True)


def test_a_policy_may_name_the_modules_it_takes() -> None:
    pinned = AppraisalPolicy(body={"mrseam": frozenset({"00" * 48})})
    facts = verify_quote(write_quote(5, {}), collateral=collateral_of("tdx"), now=NOW, anchor=ANCHOR, policy=pinned)
    assert (facts["verdict"], facts["accepted"], facts["reasons"][0]["step"]) == ("verified", False, "measurement")
