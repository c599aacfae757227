"""Say what a file is and what is in it, by its content: quotes, signed documents, checkpoints, datasets, drafts.

It shows what a file claims. The one thing it checks is whether a signature is by the key that stands beside it; whether
that key is anyone to believe is not a question of the file.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from strongroom.attestation.amd_endorsements import load_certificate, parse_amd_endorsements
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.evidence import Quote, parse_quote
from strongroom.attestation.evidence.azure import looks_like_azure, parse_hcl_report
from strongroom.attestation.evidence.event_log import parse_event_log, replay
from strongroom.attestation.evidence.nitro import looks_like_nitro
from strongroom.attestation.evidence.pck import parse_certificates
from strongroom.attestation.evidence.ra_tls import looks_like_certificate, parse_ra_tls
from strongroom.attestation.evidence.snp import looks_like_snp
from strongroom.attestation.explain import explain_parsed, explain_quote
from strongroom.attestation.facts import describe_certificate
from strongroom.envelope.manifest import MANIFEST_FILE, read_manifest
from strongroom.errors import EvidenceError, StrongroomError, UsageError
from strongroom.jobs import SignedJob
from strongroom.ledger import SignedCheckpoint
from strongroom.parties.evidence_files import find_all, find_token
from strongroom.policy import parse_policy_toml, policy_digest, policy_document
from strongroom.statements import Statement, StatementError

_MAX_BYTES = 8 << 20
_JSON = (b"{", b"[", b'"')
_ENCRYPTED_PARQUET, _PARQUET = b"PARE", b"PAR1"


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
    for look in (_parquet, _token, _paravisor, _quote, _event_log, _json, _checkpoint, _toml):
        found = look(data)
        if found is not None:
            return found
    raise UnknownContentError(
        f"{path} is nothing that Strongroom knows",
        hint="it can show quotes, reports, evidence, tokens, certificates, event logs, collateral, signed documents, "
        "checkpoints, datasets, policies and jobs in TOML",
    )


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


def _token(data: bytes) -> Finding | None:
    """Return what a token says; nothing of it is verified, its signature least of all."""
    token = find_token(data)
    if token is None:
        return None
    try:
        header, claims = (json.loads(base64.urlsafe_b64decode(part + b"==")) for part in token.split(b".")[:2])
        if not isinstance(header, dict) or not isinstance(claims, dict):
            raise ValueError("not two JSON objects")  # noqa: TRY301, TRY004  as of any other damage
        times = {name: _time(claims[name]) for name in ("iat", "nbf", "exp") if name in claims}
        facts = {
            "verified": False,
            "issuer": next(
                (claims[name] for name in ("iss", "ear_verifier_id", "ear.verifier-id") if name in claims), ""
            ),
            "algorithm": header.get("alg", ""),
            "key": header.get("kid", ""),
            **times,
            "claims": claims,
            "hint": "`strongroom attest token` verifies those of Intel Trust Authority and Azure Attestation",
        }
    except (ValueError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        return Finding(kind="damaged token", facts={"reason": str(error)[:80]})
    profile = str(claims.get("eat_profile", ""))
    return Finding(kind="attestation result (EAR)" if "ear" in profile else "token (JWT)", facts=facts)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%FT%TZ}"


def _paravisor(data: bytes) -> Finding | None:
    """Return an Azure paravisor's report, as it lies in the vTPM, with the hardware's report in it."""
    if not data.startswith(b"HCLA"):
        return None
    try:
        report = parse_hcl_report(data)
        hardware = explain_quote(report.hardware) if report.is_snp else {"TDREPORT": report.hardware[:1024].hex()}
    except EvidenceError as error:
        return Finding(kind="damaged paravisor's report", facts={"step": error.step, "reason": error.message})
    facts = {
        "verified": False,
        "tee": "azure-snp" if report.is_snp else "azure-tdx",
        "vtpm_key_bits": report.key[0].bit_length(),
        "user_data": report.user_data.hex(),
        "commitment": report.commitment.hex(),
        "hardware": hardware,
        "hint": "the evidence is this with the vTPM's quote: JSON with hcl_report, tpm_quote, and vcek or td_quote",
    }
    return Finding(kind="paravisor's report (HCL)", facts=facts)


def _quote(data: bytes) -> Finding | None:
    if looks_like_certificate(data):
        return _certificate(data) or _plain_certificates(data)
    found = () if data.lstrip()[:1] in _JSON else find_all(data)
    return _evidence(found) if found else None


def _evidence(found: tuple[bytes, ...]) -> Finding:
    """Return the one piece of evidence that was found, or a line about each of several."""
    if len(found) == 1:
        return _describe(found[0])
    each = [_describe(one) for one in found]
    said = [f"{one.kind} {one.facts.get('measurement', one.facts.get('reason', ''))}" for one in each]
    return Finding(kind=f"{len(found)} pieces of evidence", facts={"hint": "FILE#0 is the first", "found": said})


def _describe(raw: bytes) -> Finding:
    if looks_like_azure(raw) or looks_like_nitro(raw):
        return _outline(raw)
    try:
        if looks_like_snp(raw):
            return Finding(kind="SNP report", facts=explain_quote(raw))
        return _describe_quote(parse_quote(raw))
    except EvidenceError as error:
        return Finding(kind="damaged quote", facts={"step": error.step, "reason": error.message})


def _certificate(data: bytes) -> Finding | None:
    """Return an RA-TLS certificate with the quote in it; another certificate is nothing that is shown here."""
    try:
        certificate = parse_ra_tls(data)
    except EvidenceError:
        return None
    facts = describe_certificate(certificate)
    try:
        quote = parse_quote(certificate.quote)
    except EvidenceError as error:
        damage = {"step": error.step, "reason": error.message}
        return Finding(kind="RA-TLS certificate with a damaged quote", facts={**facts, "quote": damage})
    facts["binding"] = certificate.binding(quote.report_data) or "NONE: the quote does not commit to this key"
    return Finding(kind="RA-TLS certificate", facts={**facts, "quote": dict(_describe_quote(quote).facts)})


def _plain_certificates(data: bytes) -> Finding | None:
    """Return certificates without evidence: a platform's chain, or an AMD chip's key."""
    try:
        if b"-----BEGIN" in data[:4096]:
            certificates = parse_certificates(data, where="file")
        else:
            certificates = (load_certificate(data, where="file"),)
    except EvidenceError:
        return None
    listed = _list_certificates(certificates)
    hint = "a certificate proves nothing about a TEE by itself; a VCEK or VLEK is collateral: --collateral FILE"
    return Finding(kind=f"{len(listed)} certificate{'s'[: len(listed) > 1]}", facts={"found": listed, "hint": hint})


def _list_certificates(certificates: Iterable[x509.Certificate]) -> list[str]:
    return [
        f"{one.subject.rfc4514_string()}, by {one.issuer.rfc4514_string()}, valid from "
        f"{one.not_valid_before_utc:%FT%TZ} to {one.not_valid_after_utc:%FT%TZ}"
        for one in certificates
    ]


def _event_log(data: bytes) -> Finding | None:
    if b"Spec ID Event03" not in data[:64]:
        return None
    try:
        events = parse_event_log(data)
    except EvidenceError as error:
        return Finding(kind="damaged event log", facts={"step": error.step, "reason": error.message})
    registers = {f"rtmr{index}": value.hex() for index, value in enumerate(replay(events))}
    listed = [f"rtmr{one.register} type {one.type:#x} {one.digest.hex()[:24]}.. {_words(one.data)}" for one in events]
    return Finding(kind="boot event log (CCEL)", facts={"events": len(events), **registers, "log": listed})


def _words(data: bytes) -> str:
    """Return what can be read in an event's data, which is its writer's word alone."""
    text = data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-8", errors="ignore")
    return "".join(one for one in text if one.isprintable())[:60]


def _outline(data: bytes) -> Finding:
    try:
        facts = explain_quote(data)
    except EvidenceError as error:
        return Finding(kind="damaged evidence", facts={"step": error.step, "reason": error.message})
    return Finding(kind=f"{facts['tee']} evidence", facts=facts)


def _describe_quote(quote: Quote) -> Finding:
    said = explain_parsed(quote)
    return Finding(
        kind=f"{quote.tee.upper()} quote",
        facts={
            "measurement": quote.measurement,
            "report_data": quote.report_data.hex(),
            "header": _plain(quote.header),
            "report": _plain(quote.report),
            **{name: said[name] for name in ("features", "quoting_enclave", "platform", "concerns")},
            "certification_type": quote.signature.certification_type,
            "bytes": quote.size,
            "padding": quote.padding,
        },
    )


def _json(data: bytes) -> Finding | None:
    if data.lstrip()[:1] not in _JSON:
        return None
    readers: tuple[Callable[[], Finding], ...] = (
        lambda: _statement(Statement.decode(data)),
        lambda: _signed_job(data),
        lambda: _collateral(data),
        lambda: _endorsements(data),
        lambda: _evidence_in_json(data),
    )
    for read in readers:
        try:
            return read()
        except (StrongroomError, ValueError, RecursionError):
            continue
    return None


def _evidence_in_json(data: bytes) -> Finding:
    found = find_all(data)
    if not found:
        raise UnknownContentError("JSON without evidence in it")
    return _evidence(found)


def _collateral(data: bytes) -> Finding:
    found = parse_collateral(data.decode())
    parts = (found.tcb_info, found.qe_identity, found.root_crl, found.pck_crl)
    levels = [f"{one['tcbStatus']} of {one['tcbDate'][:10]}" for one in found.tcb_info.body["tcbLevels"]]
    facts = {
        "tee": found.tcb_info.id,
        "fmspc": found.fmspc,
        "authority": found.pck_crl.issuer.rfc4514_string(),
        "evaluation_number": found.tcb_info.evaluation_number,
        "valid_from": f"{max(part.issued for part in parts):%FT%TZ}",
        "valid_until": f"{found.expires:%FT%TZ}",
        "revoked": len(found.root_crl.revoked) + len(found.pck_crl.revoked),
        "levels": levels,
        "digest": found.digest,
    }
    return Finding(kind="collateral", facts=facts)


def _endorsements(data: bytes) -> Finding:
    found = parse_amd_endorsements(data.decode())
    crl = found.crl
    revocation = "no list" if crl is None else f"list of {crl.last_update_utc:%F}, good until {crl.next_update_utc:%F}"
    facts = {"certificates": _list_certificates(found.certificates), "revocation": revocation, "digest": found.digest}
    return Finding(kind="AMD endorsements", facts=facts)


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
