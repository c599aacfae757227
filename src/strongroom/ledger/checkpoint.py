"""Sign and verify checkpoints: C2SP signed notes over origin, size and root (spec/5-ledger.md §3).

Formats: c2sp.org/signed-note and c2sp.org/tlog-checkpoint, Ed25519 (algorithm byte 0x01). A checkpoint that does not
verify is never returned.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from strongroom.digests import same
from strongroom.errors import LedgerError, StrongroomError
from strongroom.ledger.proofs import HASH_BYTES
from strongroom.statements import SigningKey, VerifyKey

MAX_NOTE_BYTES = 16 << 10
MAX_SIZE = 1 << 53  # Sizes stay exact in every JSON reader.
_ED25519 = b"\x01"
_NAME = re.compile(r"^[!-*,-~]{1,200}$")  # Printable, without space and plus.
_SIZE = re.compile(r"^(0|[1-9][0-9]{0,15})$")
_LINES = 3


class CheckpointError(LedgerError):
    """A checkpoint is malformed or not signed by the ledger's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How long the ledger ``origin`` is and what its root hash is."""

    origin: str
    size: int
    root: bytes

    def encode(self) -> str:
        """Return the three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def decode(cls, text: str) -> Self:
        """Parse the three lines; extension lines are not used here and so not accepted."""
        lines = text.split("\n")
        if len(lines) != _LINES + 1 or lines[-1]:
            raise CheckpointError("a checkpoint has three lines: origin, size, root")
        origin, size, root = lines[:_LINES]
        if not _NAME.match(origin) or not _SIZE.match(size) or int(size) > MAX_SIZE:
            raise CheckpointError("a checkpoint names its origin and a decimal size")
        return cls(origin=origin, size=int(size), root=_unb64(root, size=HASH_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerKey:
    """The public half of a ledger's key, with the ledger's name; the text form is a C2SP verifier key."""

    origin: str
    key: VerifyKey

    @property
    def key_id(self) -> bytes:
        """Return the four bytes that name the key in a signature line."""
        return hashlib.sha256(self.origin.encode() + b"\n" + _ED25519 + self.key.raw).digest()[:4]

    def encode(self) -> str:
        """Return ``<origin>+<key id hex>+<base64>``."""
        return f"{self.origin}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.key.raw).decode()}"

    @classmethod
    def decode(cls, text: str) -> Self:
        """Parse ``<origin>+<key id hex>+<base64>``; raise CheckpointError otherwise."""
        origin, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = _unb64(encoded, size=1 + HASH_BYTES)
        if not _NAME.match(origin) or raw[:1] != _ED25519:
            raise CheckpointError("a ledger key is <origin>+<key id>+<base64 of an Ed25519 key>")
        found = cls(origin=origin, key=VerifyKey(raw[1:]))
        if found.key_id.hex() != key_id:
            raise CheckpointError("the ledger key's id does not match its key", hint="copy the whole line again")
        return found

    def verify(self, note: str) -> SignedCheckpoint:
        """Return the checkpoint in ``note`` if this key signed it, else raise CheckpointError."""
        signed = SignedCheckpoint.parse(note)
        if signed.checkpoint.origin != self.origin:
            raise CheckpointError(f"a checkpoint of ledger {signed.checkpoint.origin!r}, expected {self.origin!r}")
        for name, key_id, signature in signed.signatures:
            if name == self.origin and same(key_id, self.key_id):
                try:
                    self.key.verify(signature, signed.checkpoint.encode().encode())
                except StrongroomError as error:
                    raise CheckpointError(
                        "the checkpoint's signature does not hold",
                        hint="it was changed on the way; do not trust where it came from",
                    ) from error
                return signed
        raise CheckpointError(f"the checkpoint is not signed by the ledger's key {self.key_id.hex()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint with its signature lines, as it travels; trust it only from :meth:`LedgerKey.verify`."""

    checkpoint: Checkpoint
    signatures: tuple[tuple[str, bytes, bytes], ...]  # (key name, key id, signature)

    def encode(self) -> str:
        """Return the signed note."""
        lines = [f"— {name} {base64.b64encode(key_id + sig).decode()}\n" for name, key_id, sig in self.signatures]
        return self.checkpoint.encode() + "\n" + "".join(lines)

    @classmethod
    def parse(cls, note: str) -> Self:
        """Parse a signed note; raise CheckpointError for anything that is not exactly one."""
        if len(note) > MAX_NOTE_BYTES:
            raise CheckpointError(f"a checkpoint has at most {MAX_NOTE_BYTES} bytes, got {len(note)}")
        text, divider, tail = note.partition("\n\n")
        if not divider or not tail.endswith("\n"):
            raise CheckpointError("not a signed checkpoint (a C2SP signed note)")
        signatures = []
        for line in tail[:-1].split("\n"):
            parts = line.split(" ")
            if len(parts) != _LINES or parts[0] != "—" or not _NAME.match(parts[1]):
                raise CheckpointError("a signature line is: em dash, name, base64")
            raw = _unb64(parts[2])
            signatures.append((parts[1], raw[:4], raw[4:]))
        return cls(checkpoint=Checkpoint.decode(text + "\n"), signatures=tuple(signatures))


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> SignedCheckpoint:
    """Return ``checkpoint`` signed by the ledger's key."""
    public = LedgerKey(origin=checkpoint.origin, key=key.public)
    signature = key.sign(checkpoint.encode().encode())
    return SignedCheckpoint(checkpoint=checkpoint, signatures=((checkpoint.origin, public.key_id, signature),))


def _unb64(text: str, *, size: int | None = None) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise CheckpointError("a checkpoint's hashes, keys and signatures are base64") from error
    if base64.b64encode(raw).decode() != text or (size is not None and len(raw) != size):
        raise CheckpointError(f"expected base64 of {size or 'some'} bytes, got {len(raw)}")
    return raw
