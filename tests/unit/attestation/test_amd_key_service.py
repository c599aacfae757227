"""What AMD says of a chip is fetched from its key service or a mirror, once however many ask, and verified like any."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from amd_vendor import AmdVendor, certificate_table
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.collateral_sources import CollateralFolder, Pccs
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.evidence.snp import parse_snp_report
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.kds import KeyDistributionService
from strongroom.attestation.patient_client import CollateralFetchError
from strongroom.cli.journey import run

NOW = datetime.now(UTC)
TCB = {"bootloader": 4, "tee": 1, "snp": 24, "microcode": 219}
AMD = {name: AmdVendor(name, tcb=TCB) for name in ("Milan", "Genoa")}
AMD["Turin"] = AmdVendor("Turin", tcb={"fmc": 2, **TCB})
CRL_COUNTS = AppraisalPolicy(statuses=frozenset({"Unrated"}))


class KeyDesk(ThreadingHTTPServer):
    """AMD's service for one chip of each generation."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: KeyDesk

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind, _, generation, what = self.path.strip("/").split("/")
        vendor = AMD[generation]
        chip = parse_snp_report(vendor.report()).chip_id[: 8 if generation == "Turin" else 64].hex()
        spl = "blSPL=04&teeSPL=01&snpSPL=24&ucodeSPL=219"
        if what == "crl":
            self.reply(200, vendor.crl(now=NOW))
        elif generation != "Milan" and (kind, what) == (
            "vcek",
            f"{chip}?{'fmcSPL=02&' if generation == 'Turin' else ''}{spl}",
        ):
            self.reply(200, vendor.vcek().public_bytes(Encoding.DER))
        else:
            self.reply(404, b"")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def desk() -> Iterator[KeyDesk]:
    with KeyDesk() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=10)


def with_authority(text: str, vendor: AmdVendor) -> str:
    """Return the endorsements with the made-up authorities, which for AMD's own are compiled in."""
    body = json.loads(text)
    body["certificates"] += "".join(
        one.public_bytes(Encoding.PEM).decode() for one in (vendor.ask, vendor.asvk, vendor.ark)
    )
    return json.dumps(body)


def judge(report: bytes, text: str, vendor: AmdVendor) -> dict:
    collateral = with_authority(text, vendor)
    return verify_quote(report, collateral=collateral, now=NOW, anchor=vendor.anchor, policy=CRL_COUNTS)


@pytest.mark.parametrize(("generation", "version"), [("Genoa", 2), ("Genoa", 3), ("Turin", 5)])
def test_a_chips_certificate_and_the_revocation_list_are_fetched_and_verify(
    desk: KeyDesk, generation: str, version: int
) -> None:
    vendor = AMD[generation]
    report = vendor.report(version=version)
    text = KeyDistributionService(desk.url).fetch(parse_snp_report(report))
    facts = judge(report, text, vendor)
    assert (facts["verdict"], facts["accepted"], facts["claims"]["collateral"]["revocation"]) == (
        "verified",
        True,
        "CRL number 7",
    )
    assert len(desk.asked) == (3 if version == 2 else 2)  # version 2 does not say that it is not a Milan


def test_a_providers_key_is_taken_from_beside_the_report(desk: KeyDesk) -> None:
    vendor = AMD["Milan"]
    table = certificate_table([("a8074bc2-a25a-483e-aae6-39c045a0b8a1", vendor.vlek().public_bytes(Encoding.DER))])
    report = vendor.report(flags=1 << 2, version=2) + table
    text = KeyDistributionService(desk.url).fetch(parse_snp_report(report))
    assert judge(report, text, vendor)["accepted"] is True
    assert desk.asked == ["/vlek/v1/Milan/crl"]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (lambda: AMD["Milan"].report(version=3), "knows no chip"),
        (lambda: AMD["Genoa"].report(flags=1 << 2), "VLEK"),
        (lambda: AMD["Genoa"].report(flags=7 << 2), "masked"),
        (lambda: AMD["Genoa"].report(chip=bytes(64)), "not to be had"),
    ],
)
def test_what_is_not_to_be_had_is_said_with_what_to_do(desk: KeyDesk, report, words: str) -> None:
    with pytest.raises(CollateralFetchError, match=words):
        KeyDistributionService(desk.url).fetch(parse_snp_report(report()))


def test_a_storm_of_guests_makes_one_fetch_and_an_outage_leaves_what_is_there(desk: KeyDesk, tmp_path: Path) -> None:
    report = AMD["Turin"].report(version=5)
    amd = KeyDistributionService(desk.url, attempts=1)
    pccs = Pccs(desk.url, folder=CollateralFolder(tmp_path), amd=amd)
    threads = [threading.Thread(target=pccs.collateral, args=(report,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(desk.asked) == 2
    away = Pccs(
        desk.url,
        folder=CollateralFolder(tmp_path),
        refresh=timedelta(0),
        amd=KeyDistributionService("http://127.0.0.1:1", attempts=1),
    )
    assert judge(report, away.collateral(report), AMD["Turin"])["accepted"] is True


def test_the_verb_fetches_for_guests_and_says_that_documents_need_none(
    desk: KeyDesk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.bin").write_bytes(AMD["Turin"].report(version=5))
    words = ["attest", "collateral", "fetch", tmp_path / "shelf", tmp_path / "report.bin", "--amd-service", desk.url]
    assert run([*map(str, words), "--json"]) == 0
    (name,) = json.loads(capsys.readouterr().out)["fetched"]
    assert name.startswith("snp-")
    assert judge(AMD["Turin"].report(version=5), (tmp_path / "shelf" / name).read_text(), AMD["Turin"])["accepted"]
