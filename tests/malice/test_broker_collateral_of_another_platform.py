"""Somebody attests so that the broker takes the wrong collateral for an honest platform, or waits for a service."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest
from amd_vendor import AmdVendor

from strongroom.attestation.collateral_sources import CollateralFolder, Pccs
from strongroom.attestation.evidence.quote import parse_quote
from strongroom.attestation.evidence.snp import looks_like_snp
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.broker.recent_collateral import RecentCollateral

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(b"w" * 32)
SGX = quote_sgx(VENDOR, SgxFacts(mr_enclave=bytes(32), mr_signer=bytes(32)), report_data=bytes(64))
TDX = quote_tdx(VENDOR, TdxFacts(mr_td=bytes(48), rtmrs=(bytes(48),) * 4), report_data=bytes(64))
SNP = AmdVendor().report()


class Service:
    """A source that answers what it was asked about, when it is let, and knows which threads asked it."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def collateral(self, quote: bytes) -> str:
        self.threads.append(threading.current_thread())
        assert self.may_answer.wait(90)
        return "snp" if looks_like_snp(quote) else parse_quote(quote).tee


@pytest.mark.parametrize("first", [SGX, TDX])
def test_enclave_beside_a_trust_domain_does_not_exchange_its_collateral(first: bytes) -> None:
    recent = RecentCollateral(Service(), clock=lambda: 0.0)
    for quote, wanted in ((first, parse_quote(first).tee), (SGX, "sgx"), (TDX, "tdx")):
        asyncio.run(recent.prepare(quote))
        assert recent.collateral(quote) == wanted


def test_report_of_a_chip_that_there_is_not_keeps_the_broker_from_nothing_else() -> None:
    service = Service()
    service.may_answer.clear()
    recent = RecentCollateral(service, clock=lambda: 0.0)

    async def meet() -> str:
        asking = asyncio.create_task(recent.prepare(SNP))
        elsewhere = await asyncio.wait_for(asyncio.to_thread(lambda: "answered"), 30)  # the loop and its threads go on
        service.may_answer.set()
        await asking
        return elsewhere

    assert asyncio.run(meet()) == "answered"
    assert recent.collateral(SNP) == "snp"
    assert [thread.name.startswith("collateral") for thread in service.threads] == [True]


def test_strangers_who_make_a_service_think_take_no_thread_that_evidence_needs() -> None:
    service = Service()
    service.may_answer.clear()
    recent = RecentCollateral(service, clock=lambda: 0.0)
    quotes = [SGX + b"%d" % number for number in range(1, 101)]  # each would be another platform

    async def meet() -> str:
        asking = [asyncio.create_task(recent.prepare(quote)) for quote in quotes]
        elsewhere = await asyncio.wait_for(asyncio.to_thread(lambda: "answered"), 30)
        for task in asking:
            task.cancel()
        service.may_answer.set()
        await asyncio.gather(*asking, return_exceptions=True)
        return elsewhere

    assert asyncio.run(meet()) == "answered"


def test_platform_that_is_known_waits_for_no_fetch_of_another(tmp_path) -> None:
    folder = CollateralFolder(tmp_path)
    folder.add(VENDOR.collateral("sgx", now=NOW))
    fetching, may_answer = threading.Event(), threading.Event()

    class Slow:
        def fetch(self, **_asked: str) -> str:
            fetching.set()
            assert may_answer.wait(90)
            return VENDOR.collateral("tdx", now=NOW)

    pccs = Pccs(Slow(), folder=folder)
    stranger = threading.Thread(target=pccs.collateral, args=(TDX,))
    stranger.start()
    assert fetching.wait(30)
    answered: list[str] = []
    honest = threading.Thread(target=lambda: answered.append(pccs.collateral(SGX)), daemon=True)
    honest.start()
    honest.join(30)
    meanwhile = list(answered)
    may_answer.set()
    stranger.join(30)
    assert meanwhile
