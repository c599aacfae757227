"""Appraisals a second on one core and on two, parsing, and a thousand workers attesting to one driver at once.

Evidence is the simulated TEE's: its quotes and collateral have the real formats and pass the real verifier, only under
another root. Every quote is fresh, and but for the figure that says otherwise each is signed with an attestation key
that the verifier has not seen, so that the cryptographic library verifies it whole.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dcap_qvl
import psutil

from benchmarks.harness import Figure, Options, Report, interleave, progress
from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import CollateralMemory, Verifier
from strongroom.attestation.certification import CERTIFICATIONS
from strongroom.attestation.collateral_sources import CollateralFolder, Pccs
from strongroom.attestation.evidence import Evidence, parse_quote
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx, sign_quote
from strongroom.testing import collateral_desk

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CORE_GOAL: Final = 400.0  # appraisals a second of one core's time
PAIR_GOAL: Final = 2 * CORE_GOAL  # appraisals a second with two processes
STORM: Final = 1000
ONE_CORE: Final = ("SGX, one process", "TDX, one process", "TDX, platform seen before", "TDX, library alone")
GREY, BLUE, GOAL_COLOUR = "#9aa5b1", "#1f6f8b", "#c8553d"
VENDOR: Final = Vendor(b"benchmark".ljust(32, b"."))
ANCHOR: Final = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Served:
    """One set of collateral, at hand."""

    def __init__(self, tee: str) -> None:
        self.text = VENDOR.collateral(tee, now=NOW)

    def collateral(self, quote: bytes) -> str:
        del quote
        return self.text


def make_quotes(tee: str, count: int, *, keys: int) -> list[tuple[Evidence, bytes]]:
    """Return ``count`` pieces of evidence, each over report data of its own, signed by ``keys`` keys in turn."""
    made = []
    for number in range(count):
        asked = os.urandom(64)
        if tee == "sgx":
            quote = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=asked)
        else:
            quote = quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=asked)
        signed = sign_quote(VENDOR, tee, parse_quote(quote).signed, generation=number % keys)
        made.append((Evidence(tee=tee, quote=signed), asked))
    return made


@cache
def verifier(tee: str) -> Verifier:
    """Return this process's verifier."""
    return Verifier(ANCHOR, Served(tee), memory=CollateralMemory())


def appraise_all(tee: str, quotes: Sequence[tuple[Evidence, bytes]]) -> int:
    """Appraise every piece of evidence in this process, which has seen none of their keys."""
    CERTIFICATIONS.forget()
    return appraise_known(tee, quotes)


def appraise_known(tee: str, quotes: Sequence[tuple[Evidence, bytes]]) -> int:
    """Appraise every piece of evidence in this process, which may have seen its key."""
    for evidence, asked in quotes:
        verifier(tee).appraise(evidence, report_data=asked, now=NOW)
    return len(quotes)


def appraise_elsewhere(pool: ProcessPoolExecutor, tee: str, quotes: Sequence[tuple[Evidence, bytes]]) -> int:
    """Appraise every piece of evidence in the pool, in blocks, so that carrying it over costs little."""
    blocks = [quotes[start : start + 50] for start in range(0, len(quotes), 50)]
    return sum(pool.map(appraise_all, [tee] * len(blocks), blocks))


def verify_all(tee: str, quotes: Sequence[tuple[Evidence, bytes]]) -> None:
    """Run the cryptographic library alone, without our checks, policy and memory."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(Served(tee).text)
    seconds = int(NOW.timestamp())
    engine, policy = dcap_qvl.QuoteVerifier(ANCHOR.root_der), dcap_qvl.QuotePolicy.claims_only(seconds)
    for evidence, _ in quotes:
        engine.verify_with_policy(evidence.quote, collateral, seconds, policy)


def storm(quotes: Sequence[tuple[Evidence, bytes]]) -> tuple[list[float], int, float]:
    """Let every worker's evidence arrive at one driver at once, which has no collateral yet.

    Return the seconds each waited for its result, how often the collateral service was asked, and MiB of memory gained.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        collateral_desk({"tdx": VENDOR.collateral("tdx", now=NOW)}) as desk,
    ):
        source = Pccs(desk.url, folder=CollateralFolder(Path(folder)))
        driver = Verifier(ANCHOR, source, memory=CollateralMemory())
        CERTIFICATIONS.forget()
        gate, waited, lock = threading.Event(), [], threading.Lock()

        def attest(evidence: Evidence, asked: bytes) -> None:
            gate.wait()
            driver.appraise(evidence, report_data=asked, now=NOW)
            with lock:
                waited.append(time.perf_counter() - opened)

        gc.collect()
        process = psutil.Process()
        before, most = process.memory_info().rss, 0
        threads = [threading.Thread(target=attest, args=one) for one in quotes]
        for thread in threads:
            thread.start()
        opened = time.perf_counter()  # all arrive now, whenever a thread gets its turn
        gate.set()
        for thread in threads:
            thread.join()
            most = max(most, process.memory_info().rss)
        if len(waited) != len(quotes):
            raise RuntimeError(f"{len(quotes) - len(waited)} of {len(quotes)} workers were not admitted")
        return waited, len(desk.asked), (most - before) / 2**20


def run(options: Options) -> Report:
    """Run all works turn about, then the storm."""
    count, rounds = (100, 3) if options.quick else (400, 9)
    progress(options, f"making {count} quotes of each kind")
    quotes = {tee: make_quotes(tee, count, keys=count) for tee in ("sgx", "tdx")}
    known = make_quotes("tdx", count, keys=1)
    parsed = [evidence.quote for evidence, _ in quotes["tdx"]] * 10
    with ProcessPoolExecutor(2) as pool:
        works: dict[str, Callable[[], object]] = {
            "SGX, one process": lambda: appraise_all("sgx", quotes["sgx"]),
            "TDX, one process": lambda: appraise_all("tdx", quotes["tdx"]),
            "TDX, platform seen before": lambda: appraise_known("tdx", known),
            "TDX, library alone": lambda: verify_all("tdx", quotes["tdx"]),
            "TDX, two processes": lambda: appraise_elsewhere(pool, "tdx", quotes["tdx"]),
            "parse": lambda: [parse_quote(quote) for quote in parsed],
        }
        runs = interleave(works, rounds=rounds)
    size = STORM // 5 if options.quick else STORM
    progress(options, f"{size} workers at once")
    crowd = make_quotes("tdx", size, keys=size)
    waits, asked, gained = min((storm(crowd) for _ in range(3)), key=lambda one: max(one[0]))
    rates = {name: count / runs.cpu(name) for name in ONE_CORE}
    rates["TDX, two processes"] = count / runs.wall("TDX, two processes")
    waits.sort()
    figures = [
        Figure(name="SGX appraisals on one core", value=rates["SGX, one process"], unit="1/s", at_least=CORE_GOAL),
        Figure(name="TDX appraisals on one core", value=rates["TDX, one process"], unit="1/s", at_least=CORE_GOAL),
        Figure(name="TDX appraisals on one core, platform seen before", value=rates[ONE_CORE[2]], unit="1/s"),
        Figure(
            name="TDX appraisals with two processes", value=rates["TDX, two processes"], unit="1/s", at_least=PAIR_GOAL
        ),
        Figure(
            name="appraisal against the library alone",
            value=runs.ratio("TDX, one process", to="TDX, library alone"),
            unit="x CPU",
        ),
        Figure(name="quotes parsed on one core", value=len(parsed) / runs.cpu("parse"), unit="1/s"),
        Figure(name=f"{size} workers at once: median wait", value=statistics.median(waits), unit="s"),
        Figure(name=f"{size} workers at once: p99 wait", value=waits[int(0.99 * len(waits))], unit="s"),
        Figure(name=f"{size} workers at once: admitted", value=size / waits[-1], unit="1/s"),
        Figure(name=f"{size} workers at once: requests to the service", value=asked, unit="requests", at_most=4),
        Figure(name=f"{size} workers at once: memory gained", value=gained, unit="MiB", at_most=256),
    ]
    return Report(
        name="attestation",
        title="Appraising evidence",
        figures=figures,
        notes=[
            f"median of {rounds} rounds of {count} quotes; one-core rates are per CPU second, two processes per second",
            "an appraisal is the whole of spec/4-release.md section 3, with policy, memory and report data",
            "every quote is by a key that the verifier has not seen, but for the platform seen before",
            "each worker's evidence waits in a thread of its own; four requests are one fetch of collateral",
            "quotes and collateral are the simulated TEE's, in the real formats; no hardware took part",
        ],
        draw=lambda canvas: draw(canvas, rates, waits),
    )


def draw(canvas: Canvas, rates: dict[str, float], waits: Sequence[float]) -> None:
    """Draw the rates as bars, and the storm's waits as a curve."""
    left, right = canvas.subplots(1, 2)
    names = list(rates)
    left.barh(names, [rates[name] for name in names], color=[GREY if "alone" in name else BLUE for name in names])
    for place, name in enumerate(names):
        if "alone" not in name and "before" not in name:
            goal = PAIR_GOAL if "two" in name else CORE_GOAL
            label = "goal" if place == 0 else None
            left.vlines(goal, place - 0.4, place + 0.4, color=GOAL_COLOUR, linestyle="--", linewidth=2, label=label)
    left.legend(loc="upper right")
    left.invert_yaxis()
    left.set_title("Appraisals a second")
    left.set_xlabel("per core second (two processes: per second)")
    right.plot([1000 * wait for wait in waits], [(index + 1) / len(waits) for index in range(len(waits))], color=BLUE)
    right.set_title(f"{len(waits)} workers at once")
    right.set_xlabel("wait for the result, ms")
    right.set_ylabel("share answered")
