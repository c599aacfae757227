"""Say what a file is and what is in it, by its content: quotes, signed documents, checkpoints, datasets, drafts.

It shows what a file claims. The one thing it checks is whether a signature is by the key that stands beside it; whether
that key is anyone to believe is not a question of the file.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strongroom.attestation.evidence import Evidence, Quote, parse_quote
from strongroom.attestation.evidence.azure import looks_like_azure
from strongroom.attestation.evidence.nitro import looks_like_nitro
from strongroom.attestation.evidence.scale import unwrap_scale
from strongroom.attestation.evidence.snp import looks_like_snp
from strongroom.attestation.explain import explain_quote
from strongroom.envelope.manifest import MANIFEST_FILE, read_manifest
from strongroom.errors import EvidenceError, StrongroomError, UsageError
from strongroom.jobs import SignedJob
from strongroom.ledger import SignedCheckpoint
from strongroom.policy import parse_policy_toml, policy_digest, policy_document
from strongroom.statements import Statement, StatementError

_MAX_BYTES = 8 << 20
_HEX = re.compile(rb"^\s*(0x)?([0-9a-fA-F\s]+)$")
_ENCRYPTED_PARQUET, _PARQUET = b"PARE", b"PAR1"
_QUOTE_VERSIONS = (3, 4, 5)


class UnknownContentError(UsageError):
    """A file is nothing that Strongroom knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a file is, and the plain JSON facts in it."""

    kind: str
    facts: Mapping[str, Any]


def inspect_path(path: Path) -> Finding:
    """Return what the file or dataset directory at ``path`` is; raise UnknownContentError if nobody here knows."""
    if path.is_dir():
        return _inspect_directory(path)
    data = _read(path)
    for look in (_parquet, _quote, _json, _checkpoint, _toml):
        found = look(data)
        if found is not None:
            return found
    raise UnknownContentError(
        f"{path} is nothing that Strongroom knows",
        hint="it can show quotes, evidence, signed documents, checkpoints, datasets, policies and jobs in TOML",
    )


def read_quote(path: Path) -> bytes:
    """Return the quote in a file: raw bytes, hexadecimal text, evidence in JSON, or what an agent wrapped in SCALE."""
    data = _read(path)
    text = _HEX.match(data)
    if text is not None:
        digits = b"".join(text[2].split())
        if len(digits) % 2 == 0:
            return bytes.fromhex(digits.decode())
    if looks_like_azure(data.strip()):
        return data.strip()
    if data.lstrip()[:1] == b"{":
        try:
            return Evidence.from_json(json.loads(data)).quote
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{path} is not evidence in JSON", hint="give the quote's bytes, hex, or evidence"
            ) from error
    return unwrap_scale(data)


def _inspect_directory(path: Path) -> Finding:
    if (path / MANIFEST_FILE).is_file():
        return _statement(read_manifest(path))
    if (path / "checkpoint").is_file():
        found = _checkpoint(_read(path / "checkpoint"))
        if found is not None:
            return Finding(kind="copy of a ledger", facts={**found.facts, "hint": "strongroom audit checks it"})
    raise UnknownContentError(
        f"{path} is neither a dataset nor a copy of a ledger",
        hint=f"a dataset has {MANIFEST_FILE}, a copy of a ledger has checkpoint",
    )


def _parquet(data: bytes) -> Finding | None:
    if data[:4] == _ENCRYPTED_PARQUET:
        return Finding(kind="encrypted Parquet file", facts={"bytes": len(data), "footer": "encrypted"})
    if data[:4] == _PARQUET:
        return Finding(kind="Parquet file in plaintext", facts={"bytes": len(data), "footer": "readable"})
    return None


def _quote(data: bytes) -> Finding | None:
    raw = data
    text = _HEX.match(data)
    if text is not None and len(digits := b"".join(text[2].split())) % 2 == 0:
        raw = bytes.fromhex(digits.decode())
    raw = unwrap_scale(raw)
    if looks_like_azure(raw.strip()) or looks_like_nitro(raw):
        return _outline(raw.strip() if looks_like_azure(raw.strip()) else raw)
    if int.from_bytes(raw[:2], "little") not in _QUOTE_VERSIONS and not looks_like_snp(raw):
        return None
    try:
        if looks_like_snp(raw):
            return Finding(kind="SNP report", facts=explain_quote(raw))
        return _describe_quote(parse_quote(raw))
    except EvidenceError as error:
        return Finding(kind="damaged quote", facts={"step": error.step, "reason": error.message})


def _outline(data: bytes) -> Finding:
    try:
        facts = explain_quote(data)
    except EvidenceError as error:
        return Finding(kind="damaged evidence", facts={"step": error.step, "reason": error.message})
    return Finding(kind=f"{facts['tee']} evidence", facts=facts)


def _describe_quote(quote: Quote) -> Finding:
    return Finding(
        kind=f"{quote.tee.upper()} quote",
        facts={
            "measurement": quote.measurement,
            "report_data": quote.report_data.hex(),
            "header": _plain(quote.header),
            "report": _plain(quote.report),
            "certification_type": quote.signature.certification_type,
            "bytes": quote.size,
            "padding": quote.padding,
        },
    )


def _json(data: bytes) -> Finding | None:
    if data.lstrip()[:1] != b"{":
        return None
    readers: tuple[Callable[[], Finding], ...] = (
        lambda: _statement(Statement.decode(data)),
        lambda: _signed_job(data),
        lambda: _describe_quote(parse_quote(Evidence.from_json(json.loads(data)).quote)),
    )
    for read in readers:
        try:
            return read()
        except (StrongroomError, ValueError, RecursionError):
            continue
    return None


def _signed_job(data: bytes) -> Finding:
    signed = SignedJob.decode(data)
    inner = _statement(signed.statement)
    return Finding(kind="signed job", facts={**inner.facts, "program_bytes": len(signed.program)})


def _statement(statement: Statement) -> Finding:
    facts: dict[str, Any] = {
        "version": statement.version,
        "signed_by": base64.b64encode(statement.signer).decode(),
        "fingerprint": statement.party_fingerprint,
    }
    try:
        payload = statement.open(kind=statement.kind, version=statement.version, signer=None)
        facts |= {"signature": "holds", "payload": payload}
    except StatementError as error:
        facts |= {"signature": f"does NOT hold: {error.message}", "payload": _loose(statement.payload)}
    return Finding(kind=f"signed {statement.kind}", facts=facts)


def _checkpoint(data: bytes) -> Finding | None:
    try:
        signed = SignedCheckpoint.parse(data.decode())
    except (StrongroomError, UnicodeDecodeError):
        return None
    return Finding(
        kind="signed checkpoint",
        facts={
            "ledger": signed.checkpoint.origin,
            "size": signed.checkpoint.size,
            "root": signed.checkpoint.root.hex(),
            "signatures": [f"{name} {key_id.hex()}" for name, key_id, _ in signed.signatures],
        },
    )


def _toml(data: bytes) -> Finding | None:
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    if "program" in document or "kind" in document:
        return Finding(kind="job in TOML, unsigned", facts=_plain(document))
    if "dataset" not in document:
        return None
    try:
        policy = parse_policy_toml(text)
    except StrongroomError as error:
        return Finding(kind="policy in TOML, not valid", facts={"reason": error.message, "hint": error.hint})
    return Finding(
        kind="policy in TOML, unsigned", facts={"digest": policy_digest(policy), **_plain(policy_document(policy))}
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MAX_BYTES)


def _loose(payload: bytes) -> Any:  # noqa: ANN401  JSON is whatever JSON is
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return payload[:200].decode(errors="replace")


def _plain(value: Any) -> Any:  # noqa: ANN401  any value in, JSON out
    """Return ``value`` as JSON values: dataclasses as objects, bytes as hexadecimal text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    return value if isinstance(value, str | int | float | bool | None) else str(value)
