"""Seal and open records, for bulk traffic after an attested introduction (spec/6-attested-channel.md §10).

Each direction has keys of its own, from the exporter of the TLS session that the evidence is bound to. The number of a
record is its nonce; it only ever grows, and a record that is not the next one is never opened.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from strongroom.attestation.secure_line import LineClosedError, ProtocolError
from strongroom.errors import TransportError

EXPORTER_LABEL: Final = b"EXPORTER-strongroom-records-v1"
SECRET_BYTES: Final = 48
MOST_BYTES: Final = 1 << 20  # of plaintext in one record
HEAD_BYTES: Final = 16
TAG_BYTES: Final = 16
OVERHEAD: Final = HEAD_BYTES + TAG_BYTES
# 2^16 records of 2^16 + 1 blocks are 2^32 blocks under one key, a fifth of the 2^34.5 up to which RFC 8446 §5.5 and
# RFC 9001 §B.1 keep an attacker's advantage below 2^-57, and far from NIST SP 800-38D's limits (spec/6 §10).
RECORDS_PER_KEY: Final = 1 << 16
MOST_RECORDS: Final = 1 << 48

_HEAD: Final = struct.Struct("<IIQ")  # the kind's byte and the three zeros after it, as one number
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_INFO: Final = b"strongroom/records/v1 "


class RecordError(ProtocolError):
    """A record was changed, repeated, left out, or is none."""


class RecordsExhaustedError(TransportError):
    """A direction has carried as many records as it ever may."""


class CutOffError(LineClosedError):
    """The connection ended without a closing record: what came may not be all that was sent."""


class Kind(IntEnum):
    """What a record is for."""

    DATA = 1
    END = 2


_KINDS: Final = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before each record, in the clear and authenticated."""

    kind: Kind
    size: int
    number: int

    def __post_init__(self) -> None:
        if self.size > MOST_BYTES or (self.size == 0) != (self.kind is Kind.END):
            raise RecordError(f"a record of data has 1 to {MOST_BYTES} bytes, the closing one none; got {self.size}")

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        return _HEAD.pack(self.kind, self.size, self.number)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Return the head; raise RecordError for anything that no honest peer sends."""
        if len(data) != HEAD_BYTES:
            raise RecordError(f"a record's head has {HEAD_BYTES} bytes, got {len(data)}")
        kind, size, number = _HEAD.unpack(data)
        if kind not in _KINDS:
            raise RecordError(f"a record is of kind {Kind.DATA:d} or {Kind.END:d}, got {kind}")
        return cls(_KINDS[kind], size, number)


class Traffic:
    """The secret of one direction, from which its keys come one after the other; it prints and pickles nothing."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES or not any(secret):
            raise RecordError(f"a direction's secret has {SECRET_BYTES} bytes, got {len(secret)}")
        self._secret = secret

    def turn(self) -> tuple[AESGCM, int]:
        """Return the next key and the number that its nonces are masked with, and forget what they came from."""
        key = self._expand(b"key", _KEY_BYTES)
        mask = int.from_bytes(self._expand(b"iv", _NONCE_BYTES), "big")
        self._secret = self._expand(b"next", SECRET_BYTES)
        return AESGCM(key), mask

    def _expand(self, what: bytes, size: int) -> bytes:
        return HKDFExpand(algorithm=SHA384(), length=size, info=_INFO + what).derive(self._secret)

    def __repr__(self) -> str:
        return "Traffic()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a direction's secret cannot be pickled or copied")


class _Counted:
    """One direction's key of the moment, and the number of its next record."""

    __slots__ = ("_cipher", "_mask", "_number", "_traffic")

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._number = 0
        self._cipher, self._mask = traffic.turn()

    def _take(self) -> bytes:
        """Return the next number's nonce, which nobody gets again; turn to the next key when it is time."""
        number = self._number
        if number >= MOST_RECORDS:
            raise RecordsExhaustedError(
                f"this direction has carried {MOST_RECORDS} records, the most it may", hint="connect again"
            )
        if number and number % RECORDS_PER_KEY == 0:
            self._cipher, self._mask = self._traffic.turn()
        self._number = number + 1
        return (self._mask ^ number).to_bytes(_NONCE_BYTES, "big")


class Sealer(_Counted):
    """Seals one direction's records."""

    __slots__ = ()

    def seal(self, kind: Kind, data: memoryview, into: memoryview) -> int:
        """Write ``data`` (at most 1 MiB) as the next record to the beginning of ``into``; return how long it is."""
        head = Head(kind, len(data), self._number).encode()
        size = OVERHEAD + len(data)
        nonce = self._take()
        into[:HEAD_BYTES] = head
        self._cipher.encrypt_into(nonce, data, head, into[HEAD_BYTES:size])
        return size


class Opener(_Counted):
    """Opens the other direction's records, each once and in order; after an error it opens nothing more."""

    __slots__ = ("_over",)

    def __init__(self, traffic: Traffic) -> None:
        super().__init__(traffic)
        self._over = False

    @property
    def over(self) -> bool:
        """Return whether the closing record was opened."""
        return self._over

    def expect(self, data: memoryview) -> Head:
        """Return the head of the record that has to come next; raise RecordError for any other."""
        head = Head.parse(data)
        if self._over or head.number != self._number:
            raise RecordError(
                f"record {head.number} came where {'nothing' if self._over else self._number} was to come",
                hint="somebody repeats, drops or reorders what crosses the network",
            )
        return head

    def open(self, head: Head, sealed: memoryview, into: memoryview) -> None:
        """Decrypt ``sealed``, the record's body and tag, into ``into``, which has ``head.size`` bytes.

        Raise RecordError if it is not what the peer sealed; ``into`` then holds nothing that may be used.
        """
        nonce = self._take()
        try:
            self._cipher.decrypt_into(nonce, sealed, head.encode(), into)
        except InvalidTag as error:
            self._over = True
            raise RecordError(
                f"record {head.number} is not what the other side sealed",
                hint="somebody changes what crosses the network, or the other side is another than was attested",
            ) from error
        self._over = head.kind is Kind.END
