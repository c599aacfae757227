"""A policy is rehearsed on quotes in a folder, collateral is carried and watched, quotes are told in words."""

import base64
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "attestation"))

from amd_vendor import AmdVendor, certificate_table
from azure_guest import evidence
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.cli.journey import run
from strongroom.cli.screen import paint
from strongroom.testing import collateral_desk

VENDOR = Vendor(b"p" * 32)
QUOTES = {
    "sgx.bin": quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=b"r" * 64),
    "tdx.bin": quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=b"r" * 64),
}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    (tmp_path / "quotes").mkdir()
    for name, quote in QUOTES.items():
        (tmp_path / "quotes" / name).write_bytes(quote)
    (tmp_path / "root.der").write_bytes(VENDOR.root_der)
    (tmp_path / "accept.toml").write_text("")
    return tmp_path


def say(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict]:
    code = run([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_the_early_set_will_take_away_is_known_today(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    sets = {tee: VENDOR.collateral(tee, now=now) for tee in ("sgx", "tdx")}
    with collateral_desk(sets) as desk:
        faults = Faults(tcb_status="OutOfDate", advisories=("INTEL-SA-01000",), evaluation_number=21)
        desk.early["tdx"] = json.loads(VENDOR.collateral("tdx", now=now, faults=faults))
        files = [scene / "quotes" / name for name in QUOTES]
        for folder, more in (("today", []), ("early", ["--early"])):
            code, said = say(
                capsys, "attest", "collateral", "fetch", scene / folder, *files, "--service", desk.url, *more
            )
            assert (code, len(said["fetched"])) == (0, 2)
        assert len(desk.asked) == 2 * 2 * 4
    rehearse = ("attest", "test-policy", scene / "accept.toml", scene / "quotes", "--root", scene / "root.der")
    code, said = say(capsys, *rehearse, "--collateral", scene / "today")
    assert (code, said["accepted"], said["lost_early"]) == (0, {"today": 2}, [])
    code, said = say(capsys, *rehearse, "--collateral", scene / "today", "--early", scene / "early")
    assert (code, said["accepted"], said["lost_early"]) == (4, {"today": 2, "early": 1}, ["tdx.bin"])
    lost = next(row for row in said["rows"] if not row["accepted"])
    assert lost["reasons"][0]["step"] == "tcb"
    assert "INTEL-SA-01000" in lost["reasons"][0]["reason"]
    (scene / "accept.toml").write_text('statuses = ["OutOfDate", "UpToDate"]\nadvisories = ["INTEL-SA-01000"]\n')
    code, said = say(capsys, *rehearse, "--collateral", scene / "early")
    assert "grace is 0 days" in next(row for row in said["rows"] if not row["accepted"])["reasons"][0]["reason"]


def test_a_quote_without_collateral_is_refused_and_not_left_out(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scene / "none").mkdir()
    (scene / "none" / "other.json").write_text("{}")
    rehearse = ("attest", "test-policy", scene / "accept.toml", scene / "quotes", "--collateral", scene / "none")
    code, said = say(capsys, *rehearse)
    assert (code, said["accepted"], len(said["rows"])) == (4, {"today": 0}, 2)
    assert {row["reasons"][0]["step"] for row in said["rows"]} == {"collateral"}


def test_collateral_is_carried_and_watched(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    with collateral_desk({tee: VENDOR.collateral(tee, now=now) for tee in ("sgx", "tdx")}) as desk:
        words = ("attest", "collateral", "fetch", scene / "a", scene / "quotes" / "sgx.bin", "--service", desk.url)
        assert say(capsys, *words)[0] == 0
    assert say(capsys, "attest", "collateral", "export", scene / "a", scene / "bundle")[1]["sets"] == 1
    code, said = say(capsys, "attest", "collateral", "import", scene / "bundle", scene / "b")
    assert (code, list(said["sets"].values())) == (0, ["new"])
    code, said = say(capsys, "attest", "collateral", "check", scene / "b", "--metrics", scene / "m.prom")
    assert (code, {row["state"] for row in said["documents"]}) == (0, {"ok"})
    assert (scene / "m.prom").read_text().count("strongroom_collateral_expiry_seconds{") == 4


def test_a_quote_is_told_in_words(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scene / "c.json").write_text(VENDOR.collateral("tdx", now=datetime.now(UTC)))
    words = ("attest", "explain", scene / "quotes" / "tdx.bin", "--collateral", scene / "c.json")
    code, said = say(capsys, *words, "--root", scene / "root.der")
    assert (code, said["verdict"]["verdict"], said["tee"], said["verified"]) == (0, "verified", "tdx", False)
    assert run([*map(str, words)]) == 0
    assert "rejected at step" in capsys.readouterr().out


def test_a_platform_that_is_behind_is_told_each_component_and_what_to_update(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = Faults(tcb_status="OutOfDate", advisories=("INTEL-SA-00960",))
    (scene / "c.json").write_text(VENDOR.collateral("sgx", now=datetime.now(UTC), faults=faults))
    (scene / "strict.toml").write_text('statuses = ["UpToDate"]\n')
    words = ["attest", "explain", str(scene / "quotes" / "sgx.bin"), "--collateral", str(scene / "c.json")]
    assert run([*words, "--root", str(scene / "root.der"), "--policy", str(scene / "strict.toml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("not accepted by the policy:")
    assert "tcb: the platform is OutOfDate (INTEL-SA-00960), accepted: UpToDate" in lines[start + 1]
    assert lines[start + 2].strip() == "PCE SVN is 13, needs 14"
    assert lines[start + 3].strip() == "what to do: update the platform's DCAP packages; INTEL-SA-00960"


def test_what_matters_in_an_explanation_is_painted_and_nothing_is_added_or_lost() -> None:
    for line, style in (
        ("rejected at step tcb: No matching TCB level found", "bold red"),
        ("verified: the quote is genuine", "bold green"),
        ("  SGX component 3 is 5, needs 7", "red"),
        ("  what to do: update the BIOS; INTEL-SA-00960", "magenta"),
        ("concern: DEBUG", "yellow"),
        ("fail  clock", "bold red"),
    ):
        painted = paint(line)
        assert painted.plain == line
        assert style in {str(span.style) for span in painted.spans}, line
    assert paint("\x1b[31mforged").plain == "\\x1b[31mforged"


def test_evidence_of_every_kind_is_rehearsed_with_whatever_collateral_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tcb = {"fmc": 2, "bootloader": 1, "tee": 1, "snp": 4, "microcode": 73}
    amd, stranger = (AmdVendor("Turin", tcb=tcb) for _ in range(2))
    table = certificate_table([("63da758d-e664-4564-adc5-f4b93be8accd", amd.vcek().public_bytes(Encoding.DER))])
    pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in (amd.vcek(), amd.ask, amd.asvk, amd.ark))
    vlek = "".join(one.public_bytes(Encoding.PEM).decode() for one in (amd.vlek(), amd.asvk, amd.ark))
    quotes, shelf = tmp_path / "quotes", tmp_path / "shelf"
    for folder in (quotes, shelf):
        folder.mkdir()
    (shelf / "chain.pem").write_text(pem)
    (shelf / "vlek.pem").write_text(vlek)
    (shelf / "notes.txt").write_text("nothing")
    (shelf / "other.json").write_text("{}")
    (tmp_path / "root.der").write_bytes(amd.ark.public_bytes(Encoding.DER))
    (tmp_path / "accept.toml").write_text('statuses = ["Unrated"]\nunknown_revocation = true\n')
    (quotes / "report").write_bytes(amd.report(version=5))
    (quotes / "report-vlek").write_bytes(amd.report(version=5, flags=1 << 2))
    (quotes / "report-with-table").write_bytes(amd.report(version=3) + table)
    (quotes / "two.hex").write_text(f"{amd.report().hex()}\n{stranger.report().hex()}\n")
    (quotes / "token.jwt").write_text("eyJhIjoxfQ.eyJhIjoxfQ.c2ln")
    (quotes / "other").write_bytes(b"nothing at all")
    rehearse = ("attest", "test-policy", tmp_path / "accept.toml", quotes, "--collateral", shelf)
    code, said = say(capsys, *rehearse, "--root", tmp_path / "root.der")
    answers = {row["quote"]: (row["accepted"], *(one["step"] for one in row["reasons"])) for row in said["rows"]}
    assert answers == {
        "other": (False, "format"),
        "report": (True,),
        "report-vlek": (True,),
        "report-with-table": (True,),
        "token.jwt": (False, "format"),
        "two.hex#0": (True,),
        "two.hex#1": (False, "signature"),
    }
    assert (code, said["accepted"], said["quotes"]) == (4, {"today": 4}, 7)


def test_an_azure_guest_brings_its_own_certificate_to_a_rehearsal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amd = AmdVendor("Milan")
    (tmp_path / "quotes").mkdir()
    (tmp_path / "shelf").mkdir()
    ask = amd.ask.public_bytes(Encoding.PEM) + amd.ark.public_bytes(Encoding.PEM)
    both = amd.vcek().public_bytes(Encoding.PEM) + ask
    inner = json.loads(evidence(amd, asked=bytes(range(64))))
    inner["vcek"] = base64.b64encode(amd.vcek().public_bytes(Encoding.DER)).decode()
    (tmp_path / "quotes" / "guest.json").write_text(json.dumps({"evidence": inner}))
    (tmp_path / "shelf" / "chain.pem").write_bytes(both)
    (tmp_path / "root.der").write_bytes(amd.ark.public_bytes(Encoding.DER))
    (tmp_path / "accept.toml").write_text('statuses = ["Unrated"]\nunknown_revocation = true\n')
    rehearse = ("attest", "test-policy", tmp_path / "accept.toml", tmp_path / "quotes")
    code, said = say(capsys, *rehearse, "--collateral", tmp_path / "shelf", "--root", tmp_path / "root.der")
    assert (code, said["rows"][0]["reasons"]) == (0, [])
