"""A TDX guest's configfs-tsm, emulated with the kernel's rules: generations, EBUSY, files only the kernel removes."""

from __future__ import annotations

import errno

import pytest

from strongroom.attestation import providers
from strongroom.attestation.evidence import parse_quote
from strongroom.attestation.providers import TdxTee
from strongroom.attestation.simulated import SimulatedPlatform
from strongroom.attestation.tee import NoTeeError, TeeCapabilityError, TeeDeviceError
from strongroom.testing import simulated_tee


class Kernel:
    """configfs-tsm as drivers/virt/coco/tsm.c keeps it."""

    def __init__(self, module, *, provider=b"tdx_guest\n", busy=0, touched=0, stale=False, error=errno.EBUSY):
        self.module, self.provider, self.busy, self.touched, self.stale = module, provider, busy, touched, stale
        self.error = error
        self.entries: dict[str, dict[str, object]] = {}
        self.made: list[str] = []

    def make(self, name):
        assert name not in self.entries
        self.entries[name] = {"generation": 0, "inblob": b""}
        self.made.append(name)

    def write(self, name, file, data):
        assert file == "inblob"
        if self.busy:
            self.busy -= 1
            raise OSError(self.error, "refused by the kernel")
        self.entries[name].update(inblob=data, generation=self.entries[name]["generation"] + 1)
        if self.touched:  # somebody else writes into our entry
            self.touched -= 1
            self.entries[name].update(inblob=b"x" * 64, generation=self.entries[name]["generation"] + 1)

    def read(self, name, file):
        match file:
            case "provider":
                return self.provider
            case "generation":
                return b"%d\n" % self.entries[name]["generation"]
            case "outblob":
                asked = b"o" * 64 if self.stale else self.entries[name]["inblob"]
                return self.module.evidence(asked).quote + bytes(70)  # real guests pad with zeros
        raise AssertionError(file)

    def remove(self, name):
        del self.entries[name]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    platform = SimulatedPlatform(tmp_path_factory.mktemp("cpu"), tee="tdx")
    return simulated_tee("worker", platform=platform)


def tdx(kernel, tmp_path):
    return TdxTee(kernel, collateral=None, event_log=tmp_path / "CCEL", first_pause=0.0001)


def test_evidence_is_the_quote_over_what_was_asked_and_the_entry_is_removed(module, tmp_path):
    kernel = Kernel(module)
    evidence = tdx(kernel, tmp_path).evidence(b"a" * 64)
    assert parse_quote(evidence.quote).report_data == b"a" * 64
    assert len(kernel.made) == 1
    assert kernel.entries == {}


def test_the_boot_event_log_travels_with_the_quote(module, tmp_path):
    (tmp_path / "CCEL").write_bytes(b"events")
    assert tdx(Kernel(module), tmp_path).evidence(bytes(64)).event_log == b"events"


def test_a_busy_kernel_is_asked_again(module, tmp_path):
    kernel = Kernel(module, busy=3)
    tdx(kernel, tmp_path).evidence(bytes(64))
    assert len(kernel.made) == 4
    assert kernel.entries == {}


def test_a_kernel_that_stays_busy_is_given_up_on(module, tmp_path):
    kernel = Kernel(module, busy=1000)
    with pytest.raises(TeeDeviceError, match="after 6 attempts"):
        tdx(kernel, tmp_path).evidence(bytes(64))
    assert kernel.entries == {}


def test_another_error_is_not_retried(module, tmp_path):
    kernel = Kernel(module, busy=1000, error=errno.ENXIO)
    with pytest.raises(TeeDeviceError, match="after 1 attempts"):
        tdx(kernel, tmp_path).evidence(bytes(64))
    assert len(kernel.made) == 1


def test_an_entry_that_somebody_else_wrote_is_thrown_away(module, tmp_path):
    kernel = Kernel(module, touched=2)
    evidence = tdx(kernel, tmp_path).evidence(b"a" * 64)
    assert parse_quote(evidence.quote).report_data == b"a" * 64
    assert len(kernel.made) == 3


def test_an_entry_that_is_always_touched_gives_no_evidence(module, tmp_path):
    with pytest.raises(TeeDeviceError, match="somebody else"):
        tdx(Kernel(module, touched=1000), tmp_path).evidence(b"a" * 64)


def test_a_quote_over_other_report_data_never_leaves(module, tmp_path):
    with pytest.raises(TeeDeviceError, match="other report data"):
        tdx(Kernel(module, stale=True), tmp_path).evidence(b"a" * 64)


def test_another_provider_is_no_tdx(module, tmp_path):
    kernel = Kernel(module, provider=b"sev_guest\n")
    with pytest.raises(NoTeeError, match="sev_guest"):
        tdx(kernel, tmp_path).evidence(bytes(64))
    assert kernel.entries == {}


def test_tdx_has_neither_sealing_keys_nor_counters(module, tmp_path):
    tee = tdx(Kernel(module), tmp_path)
    with pytest.raises(TeeCapabilityError, match="sealing"):
        tee.sealing_key("store", terms="")
    with pytest.raises(TeeCapabilityError):
        tee.counter("store")


def test_the_real_folder_is_driven_by_mkdir_write_read_and_rmdir(tmp_path):
    reports = providers.TsmReports(tmp_path)
    reports.make("one")
    reports.write("one", "inblob", b"data")
    assert reports.read("one", "inblob") == b"data"
    with pytest.raises(
        OSError, match="not empty"
    ):  # an ordinary folder keeps its files: nothing is ever deleted by force
        reports.remove("one")
    (tmp_path / "one" / "inblob").unlink()
    reports.remove("one")
    assert list(tmp_path.iterdir()) == []
