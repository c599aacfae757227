"""An SEV-SNP guest's configfs-tsm and TDX's runtime registers, emulated with the kernel's rules."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from amd_firmware import SevGuestDevice
from amd_vendor import AmdVendor, certificate_table
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.facts import verify_quote
from strongroom.attestation.guests import RUNTIME_REGISTERS, RuntimeRegister, replay_extensions
from strongroom.attestation.providers import TSM_REPORTS, SnpTee, detect
from strongroom.attestation.tee import NoTeeError, TeeCapabilityError, TeeDeviceError
from strongroom.errors import UsageError

AMD = AmdVendor("Milan")
TABLE = certificate_table([("63da758d-e664-4564-adc5-f4b93be8accd", AMD.vcek().public_bytes(Encoding.DER))])
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Kernel:
    """configfs-tsm with the sev_guest provider: privlevel and inblob each raise the generation."""

    def __init__(
        self, *, table: bytes = TABLE, provider: bytes = b"sev_guest\n", stale: bool = False, touched: int = 0
    ):
        self.table, self.provider, self.stale, self.touched = table, provider, stale, touched
        self.entries: dict[str, dict[str, bytes | int]] = {}
        self.levels: list[bytes] = []

    def make(self, name: str) -> None:
        self.entries[name] = {"generation": 0, "inblob": b""}

    def write(self, name: str, file: str, data: bytes) -> None:
        assert file in ("inblob", "privlevel")
        if file == "privlevel":
            self.levels.append(data)
        self.entries[name][file] = data
        self.entries[name]["generation"] += 1
        if self.touched and file == "inblob":
            self.touched -= 1
            self.entries[name]["generation"] += 1

    def read(self, name: str, file: str) -> bytes:
        match file:
            case "provider":
                return self.provider
            case "generation":
                return b"%d\n" % self.entries[name]["generation"]
            case "outblob":
                return AMD.report(report_data=b"o" * 64 if self.stale else self.entries[name]["inblob"])
            case "auxblob":
                return self.table
        raise AssertionError(file)

    def remove(self, name: str) -> None:
        del self.entries[name]


def guest(kernel: Kernel, **options: int) -> SnpTee:
    return SnpTee(kernel, device=SevGuestDevice(), collateral=None, first_pause=0.0001, **options)


def test_evidence_of_a_guest_verifies_with_the_certificate_its_host_offers() -> None:
    kernel = Kernel()
    evidence = guest(kernel).evidence(b"a" * 64)
    facts = verify_quote(evidence.quote, collateral=AMD.endorsements(AMD.ask), now=NOW, anchor=AMD.anchor)
    assert (evidence.tee, facts["verdict"], facts["claims"]["report_data"]) == ("snp", "verified", (b"a" * 64).hex())
    assert (kernel.entries, kernel.levels) == ({}, [b"0"])
    assert guest(Kernel(), vmpl=2).own_measurement == "snp:" + (b"M" * 48).hex()


@pytest.mark.parametrize("table", [b"", b"junk", TABLE[:30]])
def test_a_table_that_the_host_spoiled_is_left_out(table: bytes) -> None:
    assert len(guest(Kernel(table=table)).evidence(b"a" * 64).quote) == 1184


def test_a_report_over_other_data_or_from_a_touched_entry_never_leaves() -> None:
    with pytest.raises(TeeDeviceError, match="other report data"):
        guest(Kernel(stale=True)).evidence(b"a" * 64)
    kernel = Kernel(touched=2)
    assert guest(kernel).evidence(b"a" * 64).quote[0x50:0x90] == b"a" * 64
    with pytest.raises(TeeDeviceError, match="somebody else"):
        guest(Kernel(touched=1000)).evidence(b"a" * 64)
    with pytest.raises(NoTeeError, match="tdx_guest"):
        guest(Kernel(provider=b"tdx_guest\n")).evidence(b"a" * 64)
    with pytest.raises(UsageError):
        guest(Kernel()).evidence(b"short")


def test_a_guest_is_found_by_its_device_and_has_no_counter(tmp_path: Path) -> None:
    (tmp_path / TSM_REPORTS).mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sev-guest").touch()
    tee = detect(root=tmp_path)
    assert isinstance(tee, SnpTee)
    assert tee.simulated is False
    with pytest.raises(TeeCapabilityError):
        tee.counter("store")


class Extending(RuntimeRegister):
    """A register whose file behaves as the kernel's: what is written is hashed in, by us or by somebody else."""

    def __init__(self, root: Path, *, rival: bytes = b"") -> None:
        super().__init__(3, root=root)
        self.rival = rival
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(bytes(48))
        self._value = bytes(48)

    def read(self) -> bytes:
        written = self._path.read_bytes()
        if written != self._value:
            for one in (written, self.rival):
                self._value = hashlib.sha384(self._value + one).digest() if one else self._value
            self._path.write_bytes(self._value)
        return super().read()


def test_a_register_is_extended_for_good_and_replays_from_its_log(tmp_path: Path) -> None:
    register = Extending(tmp_path)
    digests = tuple(hashlib.sha384(bytes([number])).digest() for number in range(3))
    for digest in digests:
        register.extend(digest)
    assert register.read() == replay_extensions(digests)
    assert register.read() != replay_extensions(digests[::-1])


def test_a_rival_writer_is_noticed_and_wrong_registers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TeeDeviceError, match="our extension"):
        Extending(tmp_path, rival=b"r" * 48).extend(b"d" * 48)
    with pytest.raises(UsageError):
        RuntimeRegister(0)
    with pytest.raises(UsageError):
        Extending(tmp_path).extend(b"short")
    with pytest.raises(TeeDeviceError, match="cannot read"):
        RuntimeRegister(3, root=tmp_path / "elsewhere").read()
    (tmp_path / RUNTIME_REGISTERS / "rtmr3:sha384").write_bytes(b"short")
    with pytest.raises(TeeDeviceError, match="48 bytes"):
        RuntimeRegister(3, root=tmp_path).read()
