"""Sign and verify, in the one way anything is signed here: DSSE with Ed25519 over canonical JSON.

A statement is a DSSE envelope (Dead Simple Signing Envelope v1.0.2) whose payload is RFC 8785 canonical JSON and whose
payload type names the kind and version of the document. It never signs bytes it did not frame (PAE), and never returns
a payload that was not verified.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from strongroom.digests import digest
from strongroom.errors import PolicyError

MAX_STATEMENT_BYTES = 4 << 20
_PARTY = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}:[0-9a-f]{32}$")
_EXACT = (1 << 53) - 1  # RFC 8785 writes numbers as IEEE doubles; below this every integer is exact.
_TYPE = "application/vnd.strongroom.{}+json; version={}"


class StatementError(PolicyError):
    """A signed statement is malformed, of the wrong type, or its signature does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyId:
    """Who a party is: a name for people and the fingerprint of its signing key, which alone decides.

    Text form ``name:<32 hex digits>``; two ids are the same party if and only if the fingerprints agree.
    """

    name: str
    fingerprint: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id written as ``name:<32 hex digits>``; raise StatementError otherwise."""
        if not isinstance(text, str) or not _PARTY.fullmatch(text):
            raise StatementError(
                f"not a party id: {str(text)[:80]!r}",
                hint="a party id is name:<32 hex digits>, as `strongroom identity` prints it",
            )
        name, _, fingerprint = text.partition(":")
        return cls(name=name, fingerprint=fingerprint)

    def __str__(self) -> str:
        return f"{self.name}:{self.fingerprint}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PartyId) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


class VerifyKey:
    """A party's public Ed25519 key."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        try:
            self._key = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError as error:
            raise StatementError(f"a public key has 32 bytes, got {len(raw)}") from error
        self.raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    @property
    def fingerprint(self) -> str:
        """Return the 32 hex digits that stand in a party id."""
        return digest("strongroom/party/v1", self.raw).hex()[:32]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise StatementError unless ``signature`` is this key's over ``message``."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature as error:
            raise StatementError(
                f"the signature is not by key {self.fingerprint}",
                hint="the document was changed after it was signed, or somebody else signed it",
            ) from error


class SigningKey:
    """A party's private Ed25519 key; it does not print, pickle or copy."""

    __slots__ = ("_key", "name", "public")

    def __init__(self, key: Ed25519PrivateKey, *, name: str) -> None:
        self._key = key
        self.name = name
        self.public = VerifyKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, *, name: str) -> Self:
        """Make a new key for the party called ``name``."""
        return cls(Ed25519PrivateKey.generate(), name=name)

    @classmethod
    def from_seed(cls, seed: bytes, *, name: str) -> Self:
        """Return the key that a 32-byte seed stands for."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed), name=name)

    def reveal_seed(self) -> bytes:
        """Return the 32-byte seed; only custody and the sealed store may call this."""
        return self._key.private_bytes_raw()

    @property
    def party(self) -> PartyId:
        """Return the party id that this key signs for."""
        return PartyId(name=self.name, fingerprint=self.public.fingerprint)

    def sign(self, message: bytes) -> bytes:
        """Return the raw 64-byte signature of ``message``; documents go through :func:`sign` instead."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey(party={self.party})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key cannot be pickled or copied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A signed document as it travels; nothing in it is verified until ``open`` returns."""

    kind: str
    version: int
    payload: bytes
    signer: bytes
    signature: bytes

    @property
    def digest(self) -> bytes:
        """Return the 32-byte digest of what was signed."""
        return digest("strongroom/statement/v1", self.kind.encode(), str(self.version).encode(), self.payload)

    @property
    def party_fingerprint(self) -> str:
        """Return the fingerprint of the key that claims to have signed."""
        return VerifyKey(self.signer).fingerprint

    def encode(self) -> str:
        """Return the DSSE envelope as JSON text."""
        return json.dumps(
            {
                "payloadType": _TYPE.format(self.kind, self.version),
                "payload": _b64(self.payload),
                "signatures": [{"keyid": _b64(self.signer), "sig": _b64(self.signature)}],
            }
        )

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Parse a DSSE envelope; raise StatementError for anything that is not exactly one."""
        if len(text) > MAX_STATEMENT_BYTES:
            raise StatementError(f"a statement has at most {MAX_STATEMENT_BYTES} bytes, got {len(text)}")
        try:
            envelope = json.loads(text)
            kind, version = _parse_type(envelope["payloadType"])
            (signature,) = envelope["signatures"]
            if set(envelope) != {"payloadType", "payload", "signatures"} or set(signature) != {"keyid", "sig"}:
                raise StatementError("a statement has payloadType, payload and one signature, and nothing else")
            return cls(
                kind=kind,
                version=version,
                payload=_unb64(envelope["payload"]),
                signer=_unb64(signature["keyid"]),
                signature=_unb64(signature["sig"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
            raise StatementError(
                "not a signed statement (a DSSE envelope in JSON)",
                hint="name the file that was signed: for a policy, what `strongroom permit --to` wrote",
            ) from error

    def open(self, *, kind: str, version: int, signer: VerifyKey | None) -> dict[str, Any]:
        """Return the payload after verifying kind, version and signature.

        ``signer`` is the key that must have signed; pass None only for a document that names its own key inside the
        payload (an identity), and compare afterwards.
        """
        if (self.kind, self.version) != (kind, version):
            raise StatementError(
                f"expected a {kind} statement, version {version}; got {self.kind}, version {self.version}"
            )
        key = VerifyKey(self.signer)
        if signer is not None and signer.raw != self.signer:
            raise StatementError(f"signed by {key.fingerprint}, expected {signer.fingerprint}")
        key.verify(self.signature, _pae(_TYPE.format(kind, version), self.payload))
        return _canonical_object(self.payload)


def sign(payload: Mapping[str, Any], *, kind: str, version: int, key: SigningKey) -> Statement:
    """Return ``payload`` as a statement of ``kind`` signed by ``key``."""
    body = canonical_json(dict(payload))
    return Statement(
        kind=kind,
        version=version,
        payload=body,
        signer=key.public.raw,
        signature=key.sign(_pae(_TYPE.format(kind, version), body)),
    )


def canonical_json(value: Any) -> bytes:  # noqa: ANN401  JSON is whatever JSON is
    """Return RFC 8785 canonical JSON."""
    if _is_plain(value):
        # For plain values the standard library's encoder, sorted and without blanks, writes what RFC 8785 asks for.
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    canonical: bytes = rfc8785.dumps(value)
    return canonical


def _is_plain(value: object) -> bool:
    """Return whether ``value`` holds nothing on which encoders differ: floats, huge integers, surrogates, odd keys."""
    if isinstance(value, str):
        return value.isascii()
    if isinstance(value, dict):
        return all(isinstance(key, str) and key.isascii() and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or (isinstance(value, int) and -_EXACT <= value <= _EXACT)


def _pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _canonical_object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
        canonical = canonical_json(value)
    except (ValueError, RecursionError, TypeError) as error:
        raise StatementError("the signed payload is not JSON") from error
    if not isinstance(value, dict) or canonical != payload:
        raise StatementError("the signed payload is not a canonical JSON object (RFC 8785)")
    return value


def _parse_type(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"application/vnd\.strongroom\.([a-z][a-z-]{0,40})\+json; version=([1-9][0-9]{0,3})", text)
    if match is None:
        raise StatementError(f"unknown statement type {text[:80]!r}")
    return match[1], int(match[2])


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
