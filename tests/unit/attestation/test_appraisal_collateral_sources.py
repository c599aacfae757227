"""Collateral comes from a file, a folder or a PCCS; the network may be away, slow or lying."""

import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral_sources import CollateralFetchError, CollateralFile, CollateralFolder, Pccs
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import CollateralError
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.errors import UsageError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"c" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
SGX = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
TDX = quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=bytes(64))


class Service(ThreadingHTTPServer):
    """A PCCS on this machine that serves the simulated vendor's documents and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.broken = False
        self.slow = 0.0
        self.sets = {tee: json.loads(VENDOR.collateral(tee, now=NOW)) for tee in ("sgx", "tdx")}

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet when a client with a deadline hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        time.sleep(self.server.slow)
        tee, what = self.path.split("/")[1], self.path.split("/")[4].partition("?")[0]
        if self.server.broken:
            self.send_error(500)
            return
        members = self.server.sets[tee]
        headers = {}
        if what == "pckcrl":
            headers["SGX-PCK-CRL-Issuer-Chain"] = members["pck_crl_issuer_chain"]
            body = bytes.fromhex(members["pck_crl"])
        elif what == "rootcacrl":
            body = members["root_ca_crl"].encode()
        elif what == "tcb":
            headers["TCB-Info-Issuer-Chain"] = members["tcb_info_issuer_chain"]
            body = f'{{"tcbInfo":{members["tcb_info"]},"signature":"{members["tcb_info_signature"]}"}}'.encode()
        else:
            headers["SGX-Enclave-Identity-Issuer-Chain"] = members["qe_identity_issuer_chain"]
            signature = members["qe_identity_signature"]
            body = f'{{"enclaveIdentity":{members["qe_identity"]},"signature":"{signature}"}}'.encode()
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, urllib.parse.quote(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=10)


def verdict(quote: bytes, text: str) -> str:
    return verify_quote(quote, collateral=text, now=NOW, anchor=ANCHOR)["verdict"]


@pytest.mark.parametrize("quote", [SGX, TDX], ids=["sgx", "tdx"])
def test_what_a_pccs_serves_verifies_and_is_asked_for_once(service: Service, tmp_path: Path, quote: bytes) -> None:
    pccs = Pccs(service.url, folder=CollateralFolder(tmp_path / "cache"))
    assert verdict(quote, pccs.collateral(quote)) == "verified"
    asked = len(service.asked)
    assert verdict(quote, pccs.collateral(quote)) == "verified"
    assert len(service.asked) == asked == 4
    assert verdict(quote, CollateralFolder(tmp_path / "cache").collateral(quote)) == "verified"


def test_a_storm_of_workers_makes_one_fetch(service: Service, tmp_path: Path) -> None:
    pccs = Pccs(service.url, folder=CollateralFolder(tmp_path))
    threads = [threading.Thread(target=pccs.collateral, args=(SGX,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(service.asked) == 4


def test_the_folder_serves_when_the_pccs_fails_and_nothing_does_when_both_lack_it(
    service: Service, tmp_path: Path
) -> None:
    folder = CollateralFolder(tmp_path)
    pccs = Pccs(service.url, folder=folder, refresh=timedelta(0))
    service.broken = True
    with pytest.raises(CollateralFetchError, match="HTTP 500"):
        pccs.collateral(SGX)
    assert list(tmp_path.iterdir()) == []
    folder.add(VENDOR.collateral("sgx", now=NOW))
    assert verdict(SGX, pccs.collateral(SGX)) == "verified"


def test_a_slow_pccs_meets_a_deadline(service: Service, tmp_path: Path) -> None:
    service.slow = 1.5
    pccs = Pccs(service.url, folder=CollateralFolder(tmp_path), deadline=timedelta(seconds=0.3))
    started = time.monotonic()
    with pytest.raises(CollateralFetchError):
        pccs.collateral(SGX)
    assert time.monotonic() - started < 1.4


def test_a_pccs_cannot_make_an_impostors_collateral_pass(service: Service, tmp_path: Path) -> None:
    impostor = VENDOR.impostor()
    service.sets["sgx"] = json.loads(impostor.collateral("sgx", now=NOW))
    text = Pccs(service.url, folder=CollateralFolder(tmp_path)).collateral(SGX)
    assert verdict(SGX, text) == "rejected"


def test_the_address_of_a_pccs_is_https_or_this_machine(tmp_path: Path) -> None:
    for url in ("http://pccs.example:8081", "ftp://127.0.0.1", "127.0.0.1:80", ""):
        with pytest.raises(UsageError):
            Pccs(url, folder=CollateralFolder(tmp_path))


def test_a_folder_files_sets_by_platform_and_a_file_serves_its_only_one(tmp_path: Path) -> None:
    folder = CollateralFolder(tmp_path / "folder")
    places = {folder.add(VENDOR.collateral(tee, now=NOW)).name for tee in ("sgx", "tdx")}
    fmspc = VENDOR.fmspc.hex().upper()
    assert places == {f"sgx-{fmspc}-platform.json", f"tdx-{fmspc}-platform.json"}
    assert verdict(TDX, folder.collateral(TDX)) == verdict(SGX, folder.collateral(SGX)) == "verified"
    place = tmp_path / "one.json"
    place.write_text(VENDOR.collateral("sgx", now=NOW))
    assert verdict(SGX, CollateralFile(place).collateral(SGX)) == "verified"


def test_missing_collateral_is_said_with_what_to_do(tmp_path: Path) -> None:
    for source in (CollateralFolder(tmp_path), CollateralFile(tmp_path / "none.json")):
        with pytest.raises(CollateralError, match="no collateral at") as refused:
            source.collateral(SGX)
        assert refused.value.hint
    with pytest.raises(CollateralError):
        CollateralFolder(tmp_path).add("{}")
