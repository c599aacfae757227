"""Reference values follow from what is loaded: an enclave's SIGSTRUCT, a boot's event log, a guest's firmware."""

import hashlib
import json
import struct
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from strongroom.attestation.evidence.quote import tdx_measurement
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError
from strongroom.attestation.reference_values import measure_domain, measure_guest, read_sigstruct
from strongroom.cli.journey import run
from strongroom.errors import UsageError

KEY = rsa.generate_private_key(3, 3072)


def sigstruct(*, mrenclave: bytes = b"E" * 32, attributes: int = 0x4, mask: int = (1 << 64) - 3) -> bytes:
    data = bytearray(1808)
    data[0:16] = bytes.fromhex("06000000E10000000000010000000000")
    data[20:24] = (0x20260301).to_bytes(4, "little")
    data[24:40] = bytes.fromhex("01010000600000006000000001000000")
    modulus = KEY.public_key().public_numbers().n.to_bytes(384, "little")
    data[128:512], data[512:516] = modulus, (3).to_bytes(4, "little")
    struct.pack_into("<QQQQ", data, 928, attributes, 3, mask, (1 << 64) - 1)
    data[960:992] = mrenclave
    struct.pack_into("<HH", data, 1024, 7, 2)
    signed = bytes(data[:128] + data[900:1028])
    data[516:900] = KEY.sign(signed, padding.PKCS1v15(), hashes.SHA256())[::-1]
    return bytes(data)


def test_a_sigstruct_names_the_enclave_and_its_author() -> None:
    read = read_sigstruct(sigstruct())
    modulus = KEY.public_key().public_numbers().n.to_bytes(384, "little")
    assert read.measurement == "sgx:" + (b"E" * 32).hex()
    assert read.mrsigner == hashlib.sha256(modulus).digest()
    assert (read.isvprodid, read.isvsvn, read.date, read.may_debug) == (7, 2, "20260301", True)
    assert read_sigstruct(sigstruct(mask=(1 << 64) - 1)).may_debug is False
    assert read_sigstruct(sigstruct(attributes=0x6, mask=(1 << 64) - 1)).may_debug is True


def test_a_sigstruct_that_was_changed_or_cut_gives_no_reference_value() -> None:
    sound = sigstruct()
    for offset in (20, 130, 600, 930, 960, 1024, 1026):
        flipped = bytearray(sound)
        flipped[offset] ^= 1
        with pytest.raises((MeasurementError, MalformedEvidenceError)):
            read_sigstruct(bytes(flipped))
    for cut in (b"", sound[:-1], sound + b"\0", bytes(1808)):
        with pytest.raises(MalformedEvidenceError):
            read_sigstruct(cut)


def event_log(*digests: tuple[int, bytes]) -> bytes:
    specification = b"Spec ID Event03\0" + bytes(17)
    log = struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(specification)) + specification
    for register, digest in digests:
        log += struct.pack("<IIIH", register, 1, 1, 0x0C) + digest + struct.pack("<I", 0)
    return log


def test_a_boot_log_and_a_known_firmware_give_the_measurement_of_the_domain() -> None:
    one, two = b"1" * 48, b"2" * 48
    measurement, registers = measure_domain(event_log((1, one), (2, two)), mrtd=b"D" * 48)
    expected = tuple(hashlib.sha384(bytes(48) + digest).digest() for digest in (one, two)) + (bytes(48),) * 2
    assert registers == expected
    assert measurement == tdx_measurement(b"D" * 48, expected)
    with pytest.raises(UsageError):
        measure_domain(event_log(), mrtd=b"short")


def firmware(*, body: bytes = b"firmware", eip: int = 0xFFFFFFF0) -> bytes:
    """Return 64 KiB of OVMF as QEMU and the launch digest see it: a footer table and SEV metadata."""

    def entry(guid: str, value: bytes) -> bytes:
        return value + struct.pack("<H", len(value) + 18) + UUID(guid).bytes_le

    sections = ((0x800000, 0x1000, 1), (0x801000, 0x1000, 2), (0x802000, 0x1000, 3))
    items = b"".join(struct.pack("<III", *one) for one in sections)
    metadata = b"ASEV" + struct.pack("<III", 16 + len(items), 1, len(sections)) + items
    table = entry("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", 0x400))
    table += entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", eip))
    footer = struct.pack("<H", len(table) + 18) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    image = bytearray(body.ljust(0x10000, b"\x90"))
    image[-0x400 : -0x400 + len(metadata)] = metadata
    end = len(image) - 32
    image[end - len(footer) : end] = footer
    image[end - len(footer) - len(table) : end - len(footer)] = table
    return bytes(image)


def test_a_guests_launch_digest_follows_from_firmware_processors_and_their_model(tmp_path: Path) -> None:
    pytest.importorskip("sevsnpmeasure")
    image = tmp_path / "OVMF.fd"
    image.write_bytes(firmware())
    plain = measure_guest(image, processors=2)
    assert plain.startswith("snp:")
    assert plain == measure_guest(image, processors=2, processor="EPYC-Milan")
    others = {measure_guest(image, processors=3), measure_guest(image, processors=2, processor="EPYC-Genoa")}
    image.write_bytes(firmware(body=b"firmwarf"))
    others.add(measure_guest(image, processors=2))
    image.write_bytes(firmware(eip=0xFFFFF000))
    others.add(measure_guest(image, processors=2))
    assert plain not in others
    assert len(others) == 4


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    pytest.importorskip("sevsnpmeasure")
    image = tmp_path / "OVMF.fd"
    image.write_bytes(bytes(4096))
    for arguments in (
        {"processors": 1},
        {"processors": 0},
        {"processors": 1, "processor": "Pentium"},
        {"processors": 1, "command_line": "quiet"},
    ):
        with pytest.raises(UsageError):
            measure_guest(image, **arguments)


def test_the_verb_measures_one_thing_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, log = tmp_path / "broker.sig", tmp_path / "ccel"
    place.write_bytes(sigstruct())
    log.write_bytes(event_log((1, b"1" * 48)))
    assert run(["measure", "--sigstruct", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measurement"] == "sgx:" + (b"E" * 32).hex()
    assert run(["measure", "--event-log", str(log), "--mrtd", "dd" * 48, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measurement"].startswith("tdx:")
    assert run(["measure", "--event-log", str(log), "--json"]) == 2
    assert run(["measure", "--event-log", str(log), "--sigstruct", str(place)]) == 2
