"""``strongroom attest verify`` says what a quote is, and exits 4 unless it is verified (and accepted)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.cli.journey import run

Told = pytest.CaptureFixture[str]
STABLE = {"verdict", "status", "advisories", "step", "reason", "claims"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = SimulatedPlatform(tmp_path_factory.mktemp("platform"))
    made.expose()
    (made.directory / "quote.bin").write_bytes(made.enclave("worker").quote(bytes(64)))
    return made.directory


def verify(platform: Path, *more: str, told: Told, quote: Path | None = None) -> tuple[int, dict[str, object]]:
    told.readouterr()
    words = ["attest", "verify", str(quote or platform / "quote.bin"), "--json"]
    code = run([*words, *more])
    return code, json.loads(told.readouterr().out)


def under_its_root(platform: Path) -> list[str]:
    return ["--collateral", str(platform / "collateral.json"), "--root", str(platform / "root.der")]


def test_genuine_quote_is_verified_and_marked_simulated(platform: Path, capsys: Told) -> None:
    code, facts = verify(platform, *under_its_root(platform), told=capsys)
    assert (code, facts["verdict"], facts["simulated"]) == (0, "verified", True)
    assert set(facts) >= STABLE


def test_quote_in_hexadecimal_and_as_evidence_is_the_same_quote(platform: Path, tmp_path: Path, capsys: Told) -> None:
    raw = (platform / "quote.bin").read_bytes()
    (tmp_path / "quote.hex").write_text(raw.hex() + "\n")
    code, facts = verify(platform, *under_its_root(platform), told=capsys, quote=tmp_path / "quote.hex")
    assert (code, facts["verdict"]) == (0, "verified")


def test_simulated_quote_is_rejected_under_intels_root(platform: Path, capsys: Told) -> None:
    """The laptop's vendor must count for nothing where a root was not named on purpose."""
    code, facts = verify(platform, "--collateral", str(platform / "collateral.json"), told=capsys)
    assert (code, facts["verdict"]) == (4, "rejected")
    assert facts["simulated"] is False


def test_one_flipped_bit_rejects_the_quote(platform: Path, tmp_path: Path, capsys: Told) -> None:
    raw = bytearray((platform / "quote.bin").read_bytes())
    raw[120] ^= 1
    (tmp_path / "flipped.bin").write_bytes(raw)
    code, facts = verify(platform, *under_its_root(platform), told=capsys, quote=tmp_path / "flipped.bin")
    assert (code, facts["verdict"]) == (4, "rejected")
    assert facts["step"]
    assert facts["reason"]


def test_without_collateral_nothing_is_verified(platform: Path, capsys: Told) -> None:
    code, facts = verify(platform, "--root", str(platform / "root.der"), told=capsys)
    assert (code, facts["verdict"]) == (4, "rejected")
    assert "--collateral FILE" in facts["hint"]


def test_collateral_of_another_time_does_not_count_now(platform: Path, capsys: Told) -> None:
    code, facts = verify(platform, *under_its_root(platform), "--at", "1000000000", told=capsys)
    assert (code, facts["verdict"]) == (4, "rejected")


def test_policy_that_accepts_nothing_like_it_says_every_reason(platform: Path, tmp_path: Path, capsys: Told) -> None:
    (tmp_path / "accept.toml").write_text(f'measurements = ["sgx:{"0" * 64}"]\n')
    code, facts = verify(platform, *under_its_root(platform), "--policy", str(tmp_path / "accept.toml"), told=capsys)
    assert (code, facts["verdict"], facts["accepted"]) == (4, "verified", False)
    assert [reason["step"] for reason in facts["reasons"]] == ["measurement"]


@pytest.mark.parametrize("at", ["nan", "1e30", "soon"])
def test_a_time_that_is_none_is_a_usage_error(platform: Path, capsys: Told, at: str) -> None:
    code, told = verify(platform, "--at", at, told=capsys)
    assert (code, told["exit_code"]) == (2, 2)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"abc", b'{"tee": "sgx"}', b"00" * 600])
def test_what_is_no_quote_is_rejected_without_a_trace(
    platform: Path, tmp_path: Path, capsys: Told, content: bytes
) -> None:
    (tmp_path / "nothing").write_bytes(content)
    capsys.readouterr()
    code = run(["attest", "verify", str(tmp_path / "nothing"), *under_its_root(platform)])
    told = capsys.readouterr()
    assert code in (2, 4)
    assert "defect" not in told.err
    assert "Traceback" not in told.err
