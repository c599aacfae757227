"""Compute MRTD, what a TDX module measures of a trust domain's firmware, from the firmware image itself.

Sources: Intel TDX Virtual Firmware Design Guide (metadata and section types); TDX Module Base Architecture
Specification, "MRTD" (TDH.MEM.PAGE.ADD, TDH.MR.EXTEND). It depends on the image alone, not on processors or memory, and
on the order in which the hypervisor adds and extends pages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from strongroom.attestation.evidence.layout import FieldReader
from strongroom.attestation.failures import MalformedEvidenceError

Order = Literal["page", "region"]
"""``page``: each page is added, then extended (KVM in Linux). ``region``: a whole section is added, then extended."""

MAX_IMAGE_BYTES: Final = 64 << 20
MAX_PAGES: Final = 1 << 14  # 64 MiB; firmware names a few hundred
MAX_SECTIONS: Final = 64
_TABLE_END: Final = 32
_FOOTER: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_TDX_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_ENTRY_HEAD: Final = 18  # length and GUID, which stand at an entry's end
_PAGE, _CHUNK, _BLOCK = 4096, 256, 128
_EXTENDED, _AUGMENTED = 1, 2
_KINDS: Final = ("BFV", "CFV", "TD HOB", "temporary memory", "permanent memory", "payload", "payload parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the initial memory: ``data`` goes to ``address``, zeros fill up to ``size`` bytes."""

    kind: str
    address: int
    size: int
    data: bytes
    is_extended: bool
    is_added: bool


def read_sections(image: bytes) -> tuple[Section, ...]:
    """Return what a TDVF image says of the initial memory; raise MalformedEvidenceError if it is none."""
    if len(image) > MAX_IMAGE_BYTES:
        raise _malformed("image", f"{len(image)} bytes", f"at most {MAX_IMAGE_BYTES}")
    offset = len(image) - int.from_bytes(_find_entry(image)[:4], "little")
    reader = FieldReader(image, where="firmware.metadata", offset=max(offset, 0))
    signature, _, version = (
        reader.take(4, field="signature"),
        reader.take(4, field="length"),
        reader.take_u32(field="version"),
    )
    count = reader.take_u32(field="sections")
    if offset < 0 or signature != b"TDVF" or version != 1 or not 1 <= count <= MAX_SECTIONS:
        raise _malformed("metadata", f"{signature!r} version {version} with {count} sections", "TDVF version 1")
    sections = tuple(_read_section(reader, image) for _ in range(count))
    if sum(one.size for one in sections) > MAX_PAGES * _PAGE:
        raise _malformed("metadata", "more memory", f"at most {MAX_PAGES} pages")
    if not any(one.is_extended for one in sections):
        raise _malformed("metadata", "no measured section", "a boot firmware volume that is")
    return sections


def measure_firmware(image: bytes, *, order: Order = "page") -> bytes:
    """Return MRTD, 48 bytes, of a trust domain that starts from a TDVF ``image``."""
    state = hashlib.sha384()
    for section in read_sections(image):
        pages = range(section.address, section.address + section.size, _PAGE)
        if order == "page":
            for page in pages:
                _add(state, section, page)
                _extend(state, section, page)
            continue
        for page in pages:
            _add(state, section, page)
        for page in pages:
            _extend(state, section, page)
    return state.digest()


def _add(state: hashlib._Hash, section: Section, page: int) -> None:
    if section.is_added:
        state.update(_block(b"MEM.PAGE.ADD", page))


def _extend(state: hashlib._Hash, section: Section, page: int) -> None:
    if not section.is_extended:
        return
    for place in range(page, page + _PAGE, _CHUNK):
        start = place - section.address
        state.update(_block(b"MR.EXTEND", place))
        state.update(section.data[start : start + _CHUNK].ljust(_CHUNK, b"\0"))


def _block(name: bytes, address: int) -> bytes:
    return (name.ljust(16, b"\0") + address.to_bytes(8, "little")).ljust(_BLOCK, b"\0")


def _find_entry(image: bytes) -> bytes:
    """Return the data of the TDX entry in the table of GUIDs that ends 32 bytes before the reset vector's end."""
    end = len(image) - _TABLE_END
    if end < _ENTRY_HEAD or image[end - 16 : end] != _FOOTER:
        raise _malformed(
            "image", "no table of GUIDs at its end", "OVMF or another TDVF image, code and variables in one"
        )
    start = end - int.from_bytes(image[end - _ENTRY_HEAD : end - 16], "little")
    end -= _ENTRY_HEAD
    while start >= 0 and end - _ENTRY_HEAD >= start:
        length = int.from_bytes(image[end - _ENTRY_HEAD : end - 16], "little")
        if not _ENTRY_HEAD <= length <= end - start:
            break
        if image[end - 16 : end] == _TDX_METADATA and length >= _ENTRY_HEAD + 4:
            return image[end - length : end - _ENTRY_HEAD]
        end -= length
    raise _malformed("image", "no TDX metadata", "firmware built for TDX (in Debian's ovmf: OVMF.fd)")


def _read_section(reader: FieldReader, image: bytes) -> Section:
    offset, raw = reader.take_u32(field="data offset"), reader.take_u32(field="data size")
    address = int.from_bytes(reader.take(8, field="address"), "little")
    size = int.from_bytes(reader.take(8, field="memory size"), "little")
    kind, attributes = reader.take_u32(field="type"), reader.take_u32(field="attributes")
    is_sound = address % _PAGE == 0 and size % _PAGE == 0 and raw <= size and offset + raw <= len(image)
    if not is_sound or kind >= len(_KINDS) or address + size > 1 << 52:
        raise _malformed(
            "metadata.section",
            f"{raw} bytes at {offset} for {size} at {address:#x}",
            "whole pages, data within the image",
        )
    return Section(
        kind=_KINDS[kind],
        address=address,
        size=size,
        data=image[offset : offset + raw],
        is_extended=bool(attributes & _EXTENDED),
        is_added=not attributes & _AUGMENTED,
    )


def _malformed(field: str, got: str, expected: str) -> MalformedEvidenceError:
    return MalformedEvidenceError(field=f"firmware.{field}", got=got, expected=expected)
