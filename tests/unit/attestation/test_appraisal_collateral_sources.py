"""Collateral comes from a file, a folder or a PCCS; the network may be away, slow or lying."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral_sources import CollateralFetchError, CollateralFile, CollateralFolder, Pccs
from strongroom.attestation.evidence import parse_quote
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import CollateralError
from strongroom.attestation.pcs import CollateralService
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.errors import UsageError
from strongroom.testing import CollateralDesk, collateral_desk

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"c" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
SGX = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
TDX = quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=bytes(64))


@pytest.fixture
def service() -> Iterator[CollateralDesk]:
    with collateral_desk({tee: VENDOR.collateral(tee, now=NOW) for tee in ("sgx", "tdx")}) as desk:
        yield desk


def verdict(quote: bytes, text: str) -> str:
    return verify_quote(quote, collateral=text, now=NOW, anchor=ANCHOR)["verdict"]


@pytest.mark.parametrize("quote", [SGX, TDX], ids=["sgx", "tdx"])
def test_what_a_pccs_serves_verifies_and_is_asked_for_once(
    service: CollateralDesk, tmp_path: Path, quote: bytes
) -> None:
    pccs = Pccs(service.url, folder=CollateralFolder(tmp_path / "cache"))
    assert verdict(quote, pccs.collateral(quote)) == "verified"
    asked = len(service.asked)
    assert verdict(quote, pccs.collateral(quote)) == "verified"
    assert len(service.asked) == asked == 4
    assert verdict(quote, CollateralFolder(tmp_path / "cache").collateral(quote)) == "verified"


def test_a_storm_of_workers_makes_one_fetch(service: CollateralDesk, tmp_path: Path) -> None:
    pccs = Pccs(service.url, folder=CollateralFolder(tmp_path))
    threads = [threading.Thread(target=pccs.collateral, args=(SGX,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(service.asked) == 4


def test_the_folder_serves_when_the_pccs_fails_and_nothing_does_when_both_lack_it(
    service: CollateralDesk, tmp_path: Path
) -> None:
    folder = CollateralFolder(tmp_path)
    pccs = Pccs(service.url, folder=folder, refresh=timedelta(0))
    service.answers = [(500, "0")] * 100
    with pytest.raises(CollateralFetchError, match="HTTP 500"):
        pccs.collateral(SGX)
    assert list(tmp_path.iterdir()) == []
    folder.add(VENDOR.collateral("sgx", now=NOW))
    assert verdict(SGX, pccs.collateral(SGX)) == "verified"


def test_a_slow_pccs_meets_a_deadline(service: CollateralDesk, tmp_path: Path) -> None:
    service.delay = 1.5
    pccs = Pccs(service.url, folder=CollateralFolder(tmp_path), deadline=timedelta(seconds=0.3))
    started = time.monotonic()
    with pytest.raises(CollateralFetchError):
        pccs.collateral(SGX)
    assert time.monotonic() - started < 1.4


def test_a_pccs_cannot_make_an_impostors_collateral_pass(service: CollateralDesk, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("quote", [SGX, TDX], ids=["sgx", "tdx"])
def test_a_busy_service_is_asked_again_as_late_as_it_says(service: CollateralDesk, quote: bytes) -> None:
    waits: list[float] = []
    client = CollateralService(service.url, sleep=waits.append, per_second=1e6)
    service.answers = [(429, "7"), (503, ""), (502, "")]
    parsed = parse_quote(quote)
    text = client.fetch(tee=parsed.tee, fmspc=VENDOR.fmspc.hex().upper(), ca="platform")
    assert verdict(quote, text) == "verified"
    assert waits == [7.0, 1.0, 2.0]
    assert len(service.asked) == 7


def test_a_service_that_knows_nothing_is_not_asked_twice(service: CollateralDesk) -> None:
    service.answers = [(404, "")]
    with pytest.raises(CollateralFetchError, match="HTTP 404") as refused:
        CollateralService(service.url).fetch(tee="sgx", fmspc="00" * 6, ca="platform")
    assert "does not know this platform" in refused.value.hint
    assert len(service.asked) == 1


def test_no_wait_reaches_beyond_the_deadline(service: CollateralDesk) -> None:
    service.answers = [(503, "3600")] * 9
    started = time.monotonic()
    with pytest.raises(CollateralFetchError):
        CollateralService(service.url, deadline=timedelta(seconds=1)).fetch(tee="sgx", fmspc="00" * 6, ca="platform")
    assert time.monotonic() - started < 1.5


def test_requests_are_spaced_across_threads(service: CollateralDesk) -> None:
    client = CollateralService(service.url, per_second=20)
    started = time.monotonic()
    threads = [
        threading.Thread(target=client.fetch, kwargs={"tee": "sgx", "fmspc": "00" * 6, "ca": "platform"})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(service.asked) == 12
    assert time.monotonic() - started >= 8 / 20


def test_the_early_set_is_asked_for_by_name(service: CollateralDesk) -> None:
    early = VENDOR.collateral("sgx", now=NOW, faults=Faults(tcb_status="OutOfDate", evaluation_number=21))
    service.early["sgx"] = json.loads(early)
    statuses = {
        update: verify_quote(
            SGX,
            collateral=CollateralService(service.url, update=update).fetch(tee="sgx", fmspc="00" * 6, ca="platform"),
            now=NOW,
            anchor=ANCHOR,
        )["status"]
        for update in ("standard", "early")
    }
    assert statuses == {"standard": "UpToDate", "early": "OutOfDate"}


def test_a_proxy_is_used_when_named_and_never_taken_from_the_environment(
    service: CollateralDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    CollateralService(service.url).fetch(tee="sgx", fmspc="00" * 6, ca="platform")
    CollateralService("http://127.0.0.1:9", proxy=service.url).fetch(tee="sgx", fmspc="00" * 6, ca="platform")
    assert service.asked[4].startswith("http://127.0.0.1:9/sgx/certification/v4/")


@pytest.mark.parametrize("member", ["tcb_info", "pck_crl", "root_ca_crl", "tcb_info_signature", "qe_identity"])
def test_nonsense_from_a_service_is_an_error_of_ours(service: CollateralDesk, member: str) -> None:
    service.sets["sgx"][member] = "00ff" if member == "pck_crl" else "z" * 3
    with pytest.raises(CollateralFetchError):
        CollateralService(service.url).fetch(tee="sgx", fmspc="00" * 6, ca="platform")


def test_an_answer_without_end_is_cut_off(service: CollateralDesk) -> None:
    service.sets["sgx"]["pck_crl"] = "30" * (3 << 20)
    with pytest.raises(CollateralFetchError, match="more than"):
        CollateralService(service.url).fetch(tee="sgx", fmspc="00" * 6, ca="platform")


def test_a_service_that_is_down_costs_a_thousand_workers_one_timeout(service: CollateralDesk, tmp_path: Path) -> None:
    service.answers = [(500, "0")] * 100
    pccs = Pccs(CollateralService(service.url, sleep=lambda _: None), folder=CollateralFolder(tmp_path))
    for _ in range(20):
        with pytest.raises(CollateralFetchError):
            pccs.collateral(SGX)
    assert len(service.asked) == 4
