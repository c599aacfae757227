"""The attacker publishes reference values under a publisher's name, or brings back some that were replaced."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.published_values import KIND, VERSION, PublishedValues, fill_in
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx
from strongroom.cli.journey import run
from strongroom.errors import PolicyError
from strongroom.statements import SigningKey, StatementError, sign

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ACME, MALLORY = SigningKey.generate(name="acme"), SigningKey.generate(name="acme")
GOOD, BAD, OLD = (f"sgx:{letter * 64}" for letter in "abc")
NAME = f"{ACME.party}/worker"
POLICY = AppraisalPolicy.parse(f'reference_values = ["{NAME}"]')


def issue(measurement, *, key=ACME, number=2, days=30, publisher=None, title="worker", signer=None):
    values = PublishedValues(
        publisher=publisher or key.party,
        title=title,
        number=number,
        measurements=frozenset({measurement}),
        issued=NOW - timedelta(days=1),
        expires=NOW + timedelta(days=days),
    )
    return values.sign(signer or key)


def forged(**changes):
    """Sign whatever is said, by Mallory's key, as no honest publisher's tools would."""
    payload = issue(BAD).open(kind=KIND, version=VERSION, signer=None) | changes
    return sign(payload, kind=KIND, version=VERSION, key=MALLORY)


def test_what_the_publisher_signed_is_what_the_policy_accepts() -> None:
    filled = fill_in(POLICY, [issue(GOOD)], now=NOW)
    assert filled.measurements == frozenset({GOOD})
    assert filled.reference_values == frozenset()


def test_values_in_a_publishers_name_under_another_key_are_refused() -> None:
    with pytest.raises(StatementError, match="another key signed"):
        fill_in(POLICY, [forged()], now=NOW)
    with pytest.raises(StatementError):
        issue(BAD, publisher=ACME.party, signer=MALLORY)


def test_a_publisher_of_the_same_name_with_another_key_is_somebody_else() -> None:
    with pytest.raises(PolicyError, match="nobody presented"):
        fill_in(POLICY, [issue(BAD, key=MALLORY)], now=NOW)
    assert fill_in(POLICY, [issue(BAD, key=MALLORY), issue(GOOD)], now=NOW).measurements == frozenset({GOOD})


def test_an_older_issue_beside_a_newer_one_does_not_count_and_an_expired_one_never() -> None:
    both = [issue(OLD, number=1), issue(GOOD, number=2)]
    for order in (both, both[::-1]):
        assert fill_in(POLICY, order, now=NOW).measurements == frozenset({GOOD})
    for when in (NOW + timedelta(days=31), NOW - timedelta(days=2)):
        with pytest.raises(PolicyError, match="are good from"):
            fill_in(POLICY, [issue(GOOD)], now=when)


def test_a_policy_whose_names_nobody_filled_in_admits_nothing() -> None:
    vendor = Vendor(b"p" * 32)
    anchor = TrustAnchor(root_der=vendor.root_der, simulated=True)
    quote = quote_sgx(vendor, SgxFacts(mr_enclave=b"\xaa" * 32, mr_signer=b"S" * 32), report_data=bytes(64))

    def judge(policy: AppraisalPolicy) -> dict:
        collateral = vendor.collateral("sgx", now=NOW)
        return verify_quote(quote, collateral=collateral, now=NOW, anchor=anchor, policy=policy)

    assert judge(fill_in(POLICY, [issue(GOOD)], now=NOW))["accepted"] is True
    assert judge(fill_in(POLICY, [issue(BAD)], now=NOW))["accepted"] is False
    unfilled = judge(POLICY)
    assert (unfilled["accepted"], unfilled["reasons"][0]["step"]) == (False, "measurement")


@pytest.mark.parametrize(
    "changes",
    [
        {"measurements": []},
        {"measurements": ["sgx:zz"]},
        {"measurements": "sgx"},
        {"number": 0},
        {"number": True},
        {"title": "../worker"},
        {"expires": "soon"},
        {"expires": 5},
        {"more": 1},
    ],
)
def test_values_of_another_shape_are_refused(changes) -> None:
    with pytest.raises(StatementError):
        fill_in(POLICY, [forged(publisher=str(MALLORY.party), **changes)], now=NOW)


def test_a_party_publishes_what_it_measured_and_a_verifier_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text("correct horse battery staple\n")
    home = ["--home", str(tmp_path / "home"), "--password-file", str(tmp_path / "password")]
    assert run(["identity", "--name", "acme", "--role", "owner", *home]) == 0
    capsys.readouterr()
    target = tmp_path / "worker.signed.json"
    assert run(["measure", "worker", "--publish", str(target), "--title", "worker", *home, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    policy = tmp_path / "accept.toml"
    policy.write_text(f'reference_values = ["{said["name"]}"]\n')
    vendor = Vendor(b"p" * 32)
    measured = bytes.fromhex(said["measurements"]["worker"].partition(":")[2])
    (tmp_path / "root.der").write_bytes(vendor.root_der)
    (tmp_path / "collateral.json").write_text(vendor.collateral("sgx", now=datetime.now(UTC)))
    for enclave, code in ((measured, 0), (b"X" * 32, 4)):
        facts = SgxFacts(mr_enclave=enclave, mr_signer=b"S" * 32)
        (tmp_path / "quote.bin").write_bytes(quote_sgx(vendor, facts, report_data=bytes(64)))
        words = ["attest", "verify", str(tmp_path / "quote.bin"), "--collateral", str(tmp_path / "collateral.json")]
        words += ["--root", str(tmp_path / "root.der"), "--policy", str(policy), "--reference", str(target), "--json"]
        assert run(words) == code
    assert run([*words[:-3], "--json"]) == 1, "without the signed file, the policy cannot be evaluated"
    assert run(["measure", "worker", "--publish", str(target), *home]) == 2
