"""MRTD follows from the firmware image, page for page, in either order; nothing else passes for firmware."""

import hashlib
import json
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.attestation.firmware import MAX_PAGES, measure_firmware, read_sections
from strongroom.cli.journey import run

FOOTER, TDX, OTHER = (
    UUID(text).bytes_le
    for text in (
        "96b582de-1fb2-45f7-baea-a366c55a082d",
        "e47a6535-984a-4798-865e-4685a7bf8ec2",
        "7255371f-3a3b-4b04-927b-1da6efa8d454",
    )
)
CODE = bytes(range(256)) * 32  # two pages
OVMF = Path("/usr/share/ovmf/OVMF.fd")


def image(*sections: tuple[int, int, int, int, int, int], code: bytes = CODE, **changes: object) -> bytes:
    """Return firmware whose metadata lists sections (offset, raw size, address, size, type, attributes)."""
    metadata = b"TDVF" + struct.pack("<III", 16 + 32 * len(sections), changes.get("version", 1), len(sections))
    metadata += b"".join(struct.pack("<IIQQII", *one) for one in sections)
    body = code + metadata
    end = 32

    def entry(guid: bytes, data: bytes) -> bytes:
        return data + struct.pack("<H", len(data) + 18) + guid

    # Offsets count from the image's end: metadata, entries, footer, reset vector.
    tables = entry(TDX, bytes(4)) + entry(OTHER, bytes(8))
    after = len(tables) + 18 + end
    tables = entry(TDX, struct.pack("<I", len(metadata) + after)) + entry(OTHER, bytes(8))
    footer = struct.pack("<H", len(tables) + 18) + changes.get("footer", FOOTER)
    return body + tables + footer + bytes(end)


BFV = (0, 8192, 0xFFFFE000, 8192, 0, 1)
SOUND = image(BFV, (0, 0, 0x809000, 4096, 2, 0), (0, 0, 0x900000, 4096, 4, 2))


def record(name: bytes, address: int) -> bytes:
    return name + bytes(16 - len(name)) + struct.pack("<Q", address) + bytes(104)


def test_mrtd_is_the_digest_of_every_page_added_and_every_chunk_extended() -> None:
    def extends(page: int) -> bytes:
        start = 0xFFFFE000 + 4096 * page
        return b"".join(
            record(b"MR.EXTEND", start + place) + CODE[4096 * page + place : 4096 * page + place + 256]
            for place in range(0, 4096, 256)
        )

    adds = [record(b"MEM.PAGE.ADD", address) for address in (0xFFFFE000, 0xFFFFF000, 0x809000)]
    by_page = adds[0] + extends(0) + adds[1] + extends(1) + adds[2]
    by_region = adds[0] + adds[1] + extends(0) + extends(1) + adds[2]
    assert measure_firmware(SOUND) == hashlib.sha384(by_page).digest()
    assert measure_firmware(SOUND, order="region") == hashlib.sha384(by_region).digest()


def test_the_sections_are_read_as_the_metadata_has_them() -> None:
    code, hob, permanent = read_sections(SOUND)
    assert (code.kind, code.address, code.is_extended, code.is_added, code.data) == (
        "BFV",
        0xFFFFE000,
        True,
        True,
        CODE,
    )
    assert (hob.kind, hob.is_extended) == ("TD HOB", False)
    assert (permanent.kind, permanent.is_added) == ("permanent memory", False), "pages added later are not measured"


def test_one_changed_byte_of_code_changes_it_and_one_of_variables_does_not() -> None:
    variables = (4096, 4096, 0xFFFFD000, 4096, 1, 0)
    code = (0, 4096, 0xFFFFE000, 4096, 0, 1)
    before = measure_firmware(image(code, variables))
    assert measure_firmware(image(code, variables, code=CODE[:-1] + b"x")) == before
    assert measure_firmware(image(code, variables, code=b"x" + CODE[1:])) != before


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        bytes(100),
        SOUND[:-1],
        image(BFV, footer=OTHER),
        image(BFV, version=2),
        image(),
        image((0, 0, 0x809000, 4096, 2, 0)),
        image((0, 8192, 0xFFFFE001, 8192, 0, 1)),
        image((0, 8192, 0xFFFFE000, 4096, 0, 1)),
        image((4096, 1 << 20, 0xFFFFE000, 1 << 20, 0, 1)),
        image((0, 8192, 0xFFFFE000, 8192, 9, 1)),
        image(BFV, (0, 0, 0, (MAX_PAGES + 1) * 4096, 3, 0)),
        image(*[BFV] * 65),
    ],
    ids=range(13),
)
def test_whatever_is_no_firmware_for_tdx_says_so(broken: bytes) -> None:
    with pytest.raises(MalformedEvidenceError, match="firmware"):
        measure_firmware(broken)


def test_the_verb_gives_mrtd_and_with_a_boot_log_the_whole_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "OVMF.fd").write_bytes(SOUND)
    assert run(["measure", "--tdvf", str(tmp_path / "OVMF.fd"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mrtd"] == measure_firmware(SOUND).hex()
    head = b"Spec ID Event03\0" + bytes(17)
    log = bytes(4) + (3).to_bytes(4, "little") + bytes(20) + len(head).to_bytes(4, "little") + head
    (tmp_path / "log").write_bytes(log)
    assert run(["measure", "--tdvf", str(tmp_path / "OVMF.fd"), "--event-log", str(tmp_path / "log"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measurement"].startswith("tdx:")
    assert run(["measure", "--tdvf", str(tmp_path / "OVMF.fd"), "--mrtd", "00" * 48]) == 2


@pytest.mark.slow
def test_debians_ovmf_is_firmware_for_tdx() -> None:
    """A real image, for which no vendor's MRTD is at hand: what is checked is that it is read whole."""
    if not OVMF.is_file():
        subprocess.run([Path(__file__).parents[3] / "scripts" / "apt", "ovmf"], check=True)
    data = OVMF.read_bytes()
    code, variables, *rest = read_sections(data)
    assert (code.kind, code.is_extended, variables.kind, variables.is_extended) == ("BFV", True, "CFV", False)
    assert code.data + variables.data == data[len(variables.data) :] + data[: len(variables.data)]
    assert {one.kind for one in rest} == {"temporary memory", "TD HOB"}
    assert len({measure_firmware(data), measure_firmware(data, order="region")}) == 2
