"""Speak the few TPM 2.0 commands that a guest above a paravisor needs: NV indices, registers, quotes.

Source: TCG, Trusted Platform Module Library part 3 (commands) and part 2 (structures). Integers are big endian. It uses
empty authorisation values only, as Azure's vTPM has them. Raises TeeDeviceError, and MalformedEvidenceError for answers
that are cut short.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Final, Protocol

from strongroom.attestation.evidence.layout import FieldReader
from strongroom.attestation.tee import TeeDeviceError

PCRS: Final = 24
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_OWNER: Final = 0x40000001
_EMPTY_PASSWORD: Final = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
_NV_DEFINE, _NV_WRITE, _NV_READ, _NV_READ_PUBLIC, _QUOTE, _PCR_READ = 0x12A, 0x137, 0x14E, 0x169, 0x158, 0x17E
_SHA256, _NULL, _RSASSA = 0x000B, 0x0010, 0x0014
_READABLE: Final = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18 | 1 << 25  # owner and holder read and write, no lockout
_PART: Final = 512
_AT_ONCE: Final = 8  # digests in one answer
_HEAD: Final = struct.Struct(">HII")
_MAX_ANSWER: Final = 8192
_LATER: Final = (0x922, 0x90A, 0x908)  # TPM_RC_RETRY, _TESTING, _YIELDED
_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 0.0)  # seconds
_UNDEFINED: Final = 0x18B  # TPM_RC_HANDLE for the first handle


class TpmError(TeeDeviceError):
    """The TPM refused a command; ``code`` is its response code."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"the vTPM refused to {what}: code {code:#x}", hint="may this process use /dev/tpmrm0?")
        self.code = code


class TpmLine(Protocol):
    """Where commands go: the kernel's resource manager, or an emulator."""

    def exchange(self, command: bytes) -> bytes:
        """Send one command and return its answer."""
        ...


class TpmDevice:
    """The kernel's resource manager, /dev/tpmrm0."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exchange(self, command: bytes) -> bytes:
        """Send one command and return its answer."""
        try:
            with self._path.open("r+b", buffering=0) as device:
                device.write(command)
                return device.read(_MAX_ANSWER) or b""
        except OSError as error:
            raise TeeDeviceError(
                f"cannot use {self._path}: {error.strerror}", hint="needs group tss, or root"
            ) from error


class Tpm:
    """A TPM 2.0 whose owner has an empty password."""

    def __init__(self, line: TpmLine) -> None:
        self._line = line

    def read_index(self, index: int) -> bytes:
        """Return the whole of an NV index."""
        public = self._ask("look at an NV index", _NV_READ_PUBLIC, struct.pack(">I", index))
        reader = _sized(public, "nv public")
        reader.take(4 + 2 + 4, field="index, algorithm, attributes")
        reader.take(_u16(reader), field="policy")
        size = _u16(reader)
        parts = []
        for offset in range(0, size, _PART):
            where = struct.pack(">HH", min(_PART, size - offset), offset)
            answer = self._ask("read an NV index", _NV_READ, struct.pack(">II", _OWNER, index), where)
            parts.append(_rest(_sized(answer, "nv data")))
        return b"".join(parts)

    def write_index(self, index: int, data: bytes) -> None:
        """Write an NV index, which is defined with this size if it does not exist."""
        try:
            self._ask("look at an NV index", _NV_READ_PUBLIC, struct.pack(">I", index))
        except TpmError as error:
            if error.code != _UNDEFINED:
                raise
            public = struct.pack(">IHIHH", index, _SHA256, _READABLE, 0, len(data))
            shape = struct.pack(">HH", 0, len(public)) + public
            self._ask("define an NV index", _NV_DEFINE, struct.pack(">I", _OWNER), shape)
        for offset in range(0, len(data), _PART):
            part = data[offset : offset + _PART]
            what = struct.pack(">H", len(part)) + part + struct.pack(">H", offset)
            self._ask("write an NV index", _NV_WRITE, struct.pack(">II", _OWNER, index), what)

    def read_registers(self) -> tuple[bytes, ...]:
        """Return all 24 registers of the SHA-256 bank."""
        found: list[bytes] = []
        for first in range(0, PCRS, _AT_ONCE):
            selection = ((1 << _AT_ONCE) - 1 << first).to_bytes(3, "little")
            wanted = struct.pack(">IHB", 1, _SHA256, 3) + selection
            reader = FieldReader(self._ask("read registers", _PCR_READ, b"", wanted, auth=False), where="registers")
            reader.take(4 + len(wanted), field="counter and selection")
            count = int.from_bytes(reader.take(4, field="count"), "big")
            found += [reader.take(_u16(reader), field="digest") for _ in range(min(count, _AT_ONCE))]
        if len(found) != PCRS:
            raise TeeDeviceError(f"the vTPM has {len(found)} SHA-256 registers, expected {PCRS}")
        return tuple(found)

    def quote(self, key: int, nonce: bytes) -> tuple[bytes, bytes]:
        """Return the key's statement about all registers over ``nonce``, and its RSA signature (PKCS#1 v1.5)."""
        wanted = struct.pack(">H", len(nonce)) + nonce + struct.pack(">HIHB", _NULL, 1, _SHA256, 3) + b"\xff\xff\xff"
        reader = FieldReader(self._ask("quote", _QUOTE, struct.pack(">I", key), wanted), where="quote")
        message = reader.take(_u16(reader), field="message")
        scheme, hashing = _u16(reader), _u16(reader)
        if (scheme, hashing) != (_RSASSA, _SHA256):
            raise TeeDeviceError(f"the vTPM signs with {scheme:#x} over {hashing:#x}, expected RSASSA over SHA-256")
        return message, reader.take(_u16(reader), field="signature")

    def _ask(self, what: str, code: int, handles: bytes, parameters: bytes = b"", *, auth: bool = True) -> bytes:
        """Return the parameters of the answer; raise TpmError for a refusal."""
        auth = auth and code != _NV_READ_PUBLIC
        body = handles + (_EMPTY_PASSWORD if auth else b"") + parameters
        command = _HEAD.pack(_SESSIONS if auth else _NO_SESSIONS, _HEAD.size + len(body), code) + body
        for pause in _PAUSES:
            answer = self._line.exchange(command)
            if len(answer) < _HEAD.size:
                raise TeeDeviceError(f"the vTPM answered {len(answer)} bytes")
            tag, size, refused = _HEAD.unpack_from(answer)
            if refused not in _LATER:
                break
            time.sleep(pause)
        if refused:
            raise TpmError(what, refused)
        if size != len(answer):
            raise TeeDeviceError(f"the vTPM answered {len(answer)} bytes and says {size}")
        content = answer[_HEAD.size :]
        return content[4 : 4 + int.from_bytes(content[:4], "big")] if tag == _SESSIONS else content


def _sized(data: bytes, where: str) -> FieldReader:
    """Return a reader over the first sized buffer in ``data``."""
    return FieldReader(data, where=where, offset=2, end=2 + int.from_bytes(data[:2], "big"))


def _rest(reader: FieldReader) -> bytes:
    return reader.take(reader.left, field="data")


def _u16(reader: FieldReader) -> int:
    return int.from_bytes(reader.take(2, field="size"), "big")
