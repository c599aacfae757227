"""Ask the collateral source once a minute per platform instead of once per attestation, and beside the event loop.

What is kept is the source's text; every use of it is verified anew, and the verifier's memory refuses older ones.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from strongroom.attestation.appraisal import CollateralSource
from strongroom.attestation.evidence.snp import looks_like_snp, parse_snp_report
from strongroom.attestation.genuineness import hardware_part
from strongroom.errors import EvidenceError

SECONDS = 60.0
MAX_PLATFORMS = 1024
_CHAIN = b"-----BEGIN CERTIFICATE-----"
_KIND = 8  # the bytes of a quote's header that say which TEE it is from
_THREADS = 8  # apart from all others: whoever makes a service think keeps nothing but other fetches waiting


class RecentCollateral:
    """A source that remembers for a minute what another source said about a platform."""

    def __init__(self, source: CollateralSource, *, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="collateral")
        self._last = (b"", b"")  # a quote and its platform: an appraisal asks about the one that was prepared

    async def prepare(self, quote: bytes) -> None:
        """Ask the source about the platform of ``quote`` in a thread, unless that was done within the last minute.

        A service may take half a minute to answer, and nobody else waits for it; however many ask, it is asked once.
        """
        platform = self._find_platform(quote)
        if not platform or self._recall(platform) is not None:
            return
        asking = self._asking.get(platform)
        if asking is None:
            asking = self._asking[platform] = asyncio.create_task(self._ask(platform, quote))
            asking.add_done_callback(lambda _: self._asking.pop(platform))
        await asyncio.shield(asking)  # Whoever hangs up leaves the others waiting for their answer.

    def collateral(self, quote: bytes) -> str:
        """Return the collateral for the platform that the quote or report is from."""
        platform = self._find_platform(quote)
        if not platform:  # A quote that says nothing of its platform: no service is asked about one.
            return self._source.collateral(quote)
        text = self._recall(platform)
        return self._keep(platform, self._source.collateral(quote)) if text is None else text

    async def _ask(self, platform: bytes, quote: bytes) -> None:
        running = asyncio.get_running_loop()
        self._keep(platform, await running.run_in_executor(self._threads, self._source.collateral, quote))

    def _find_platform(self, quote: bytes) -> bytes:
        if self._last[0] is not quote:
            self._last = (quote, name_platform(quote))
        return self._last[1]

    def _recall(self, platform: bytes) -> str | None:
        kept = self._kept.get(platform)
        return kept[1] if kept is not None and self._clock() - kept[0] < SECONDS else None

    def _keep(self, platform: bytes, text: str) -> str:
        self._kept[platform] = (self._clock(), text)
        self._kept.move_to_end(platform)
        while len(self._kept) > MAX_PLATFORMS:
            self._kept.popitem(last=False)
        return text


def name_platform(quote: bytes) -> bytes:
    """Return what collateral is kept under: whatever a source chooses it by, and nothing if there is nothing of it.

    An SGX and a TDX quote of one machine carry the same chain, and need different collateral; a report of SEV-SNP
    carries none, and is told by its chip and firmware.
    """
    try:
        hardware = hardware_part(quote)
        if looks_like_snp(hardware):
            report = parse_snp_report(hardware)
            return hashlib.sha256(b"snp" + report.chip_id + report.reported_tcb).digest()
    except EvidenceError:  # The appraisal says what is wrong with it before it asks for any collateral.
        return b""
    start = hardware.find(_CHAIN)
    return b"" if start < 0 else hashlib.sha256(hardware[:_KIND] + hardware[start:].rstrip(b"\0")).digest()
