"""A store in an SEV-SNP guest opens under the chip's key for the firmware that sealed it, and follows its updates."""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "attestation"))

from amd_firmware import SevGuestDevice
from test_providers_guests import AMD, Kernel

from strongroom.attestation.providers import SnpTee
from strongroom.attestation.tee import TeeDeviceError
from strongroom.broker.custodians import TeeSeal, parse_seal
from strongroom.broker.opening import open_store
from strongroom.catalog.sealing import SealError
from strongroom.catalog.store import Change, ClosedStore, LedgerEnd
from strongroom.errors import UsageError
from strongroom.statements import SigningKey

END = LedgerEnd(size=0, root=bytes(32), write=lambda cursor: None)
OLD, NEW = bytes.fromhex("04000000000018db"), bytes.fromhex("05000000000019dc")


class Machine(Kernel):
    """Reports the firmware's committed version as the device has it."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def read(self, name, file):
        report = super().read(name, file)
        if file == "outblob":
            report = report[:0x1E0] + self.device.committed + report[0x1E8:]
        return report


def start(place, *, named=(), **guest):
    """Start a broker as far as its store, write something, and return what was there and the seal then."""
    device = SevGuestDevice(**guest)
    tee = SnpTee(Machine(device), device=device, collateral=None, first_pause=0.0001)
    closed = ClosedStore.hold(place, tables=[])
    try:
        opened = asyncio.run(
            open_store(closed, tee=tee, named=named, handed=None, held=None, watch=None, stop=asyncio.Event())
        )
        there = [change.value for change in opened.store.load()]
        opened = opened.seal_anew(None)
        number = opened.store.head.commits
        opened.store.commit([Change(kind="a", key=str(number), value=b"%d" % number)], epoch=0, ledger=END)
    finally:
        closed.close()
    closed = ClosedStore.hold(place, tables=[])
    closed.close()
    return sorted(there), parse_seal(closed.seal)


def test_the_report_of_the_double_says_what_the_double_seals_for():
    assert AMD.report()[0x1E0:0x1E8] == OLD


def test_store_opens_after_a_restart_and_is_sealed_anew_for_newer_firmware(tmp_path):
    assert start(tmp_path, committed=OLD) == ([], TeeSeal(terms=OLD.hex()))
    assert start(tmp_path, committed=OLD) == ([b"0"], TeeSeal(terms=OLD.hex()))
    assert start(tmp_path, committed=NEW) == ([b"0", b"1"], TeeSeal(terms=NEW.hex()))
    assert start(tmp_path, committed=NEW) == ([b"0", b"1", b"2"], TeeSeal(terms=NEW.hex()))
    with pytest.raises(TeeDeviceError, match="refuses to derive"):  # Attack: the host takes the firmware back.
        start(tmp_path, committed=OLD)


@pytest.mark.parametrize("other", [{"measurement": b"N" * 48}, {"chip": b"another"}, {"policy": 0xB0000}])
def test_store_opens_for_no_other_guest_or_machine(tmp_path, other):
    start(tmp_path, committed=OLD)
    with pytest.raises(SealError, match="does not open"):
        start(tmp_path, committed=OLD, **other)


def test_store_that_the_chip_sealed_has_no_custodians(tmp_path):
    start(tmp_path, committed=OLD)
    with pytest.raises(UsageError, match="sealed by the TEE"):
        start(tmp_path, committed=OLD, named=[SigningKey.generate(name="owner").party])


def test_a_seal_that_names_older_firmware_opens_nothing_that_newer_sealed(tmp_path):
    """Attack: the host writes another version into the seal, which lies in the clear."""
    start(tmp_path, committed=OLD)
    start(tmp_path, committed=NEW)
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as connection, connection:
        connection.execute("update seal set text = ?", (TeeSeal(terms=OLD.hex()).encode(),))
    with pytest.raises(SealError, match="does not open"):
        start(tmp_path, committed=NEW)
