"""A verifier remembers the newest collateral and time, on disk, and shares what it knows."""

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.failures import ClockSetBackError, StaleCollateralError
from strongroom.attestation.memory import CollateralMemory, CollateralMemoryError
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor

VENDOR, OTHER = Vendor(b"m" * 32), Vendor(b"o" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
OTHER_ANCHOR = TrustAnchor(root_der=OTHER.root_der, simulated=True)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def issued(when: datetime, vendor: Vendor = VENDOR, **faults: object):
    return parse_collateral(vendor.collateral("sgx", now=when, faults=Faults(**faults)))


def test_what_was_seen_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "memory.json"
    CollateralMemory(path).remember(issued(NOW), anchor=ANCHOR, now=NOW)
    again = CollateralMemory.at(path)
    again.check(issued(NOW), anchor=ANCHOR, now=NOW)
    with pytest.raises(StaleCollateralError, match="was already seen"):
        again.check(issued(NOW - 2 * DAY), anchor=ANCHOR, now=NOW)
    with pytest.raises(ClockSetBackError):
        again.check(issued(NOW), anchor=ANCHOR, now=NOW - DAY)
    assert path.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in path.parent.iterdir() if entry.name.endswith((".json", ".lock"))] != []
    assert len(list(path.parent.iterdir())) == 2  # no temporary file is left


def test_a_lower_evaluation_number_is_refused_even_when_issued_later() -> None:
    memory = CollateralMemory()
    memory.remember(issued(NOW), anchor=ANCHOR, now=NOW)
    with pytest.raises(StaleCollateralError, match="number 19, but 20"):
        memory.check(issued(NOW + DAY, evaluation_number=19), anchor=ANCHOR, now=NOW + DAY)
    memory.check(issued(NOW + DAY, evaluation_number=21), anchor=ANCHOR, now=NOW + DAY)


def test_vendors_are_remembered_apart() -> None:
    memory = CollateralMemory()
    memory.remember(issued(NOW), anchor=ANCHOR, now=NOW)
    memory.check(issued(NOW - 2 * DAY, OTHER), anchor=OTHER_ANCHOR, now=NOW)


def test_checking_alone_remembers_nothing() -> None:
    memory = CollateralMemory()
    memory.check(issued(NOW + 3 * DAY), anchor=ANCHOR, now=NOW + 3 * DAY)
    memory.check(issued(NOW), anchor=ANCHOR, now=NOW)


def test_two_processes_share_one_file_without_losing_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    first, second = CollateralMemory(path), CollateralMemory(path)
    first.remember(issued(NOW), anchor=ANCHOR, now=NOW)
    second.remember(issued(NOW, OTHER), anchor=OTHER_ANCHOR, now=NOW)
    third = CollateralMemory(path)
    for anchor, vendor in ((ANCHOR, VENDOR), (OTHER_ANCHOR, OTHER)):
        with pytest.raises(StaleCollateralError):
            third.check(issued(NOW - 2 * DAY, vendor), anchor=anchor, now=NOW)


def test_threads_may_share_a_memory(tmp_path: Path) -> None:
    memory = CollateralMemory(tmp_path / "memory.json")
    days = [issued(NOW + n * DAY) for n in range(8)]
    threads = [
        threading.Thread(target=memory.remember, args=(one,), kwargs={"anchor": ANCHOR, "now": NOW}) for one in days
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    reread = CollateralMemory(tmp_path / "memory.json")
    reread.check(days[-1], anchor=ANCHOR, now=NOW)
    with pytest.raises(StaleCollateralError):
        reread.check(days[-3], anchor=ANCHOR, now=NOW)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", json.dumps({"format": "other", "clock": 0, "marks": {}}), '{"format": "strongroom/', "null"],
)
def test_a_damaged_memory_is_an_error_and_not_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "memory.json"
    path.write_text(text)
    with pytest.raises(CollateralMemoryError):
        CollateralMemory(path)
