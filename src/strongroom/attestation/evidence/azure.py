"""Parse what an Azure confidential VM presents: an HCL report and a vTPM quote (spec/4-release.md §3.15).

Above Azure's paravisor a guest cannot choose REPORTDATA. The hardware's report commits to a JSON text that names the
vTPM's attestation key, and that key signs the verifier's nonce. Sources: Azure, guest attestation (HCL report layout);
TCG TPM 2.0 part 2 (TPMS_ATTEST). It verifies nothing, and raises nothing but MalformedEvidenceError.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.evidence.layout import FieldReader
from strongroom.attestation.evidence.quote import parse_quote
from strongroom.attestation.evidence.snp import looks_like_snp, parse_snp_report
from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.digests import digest384

MAX_BYTES: Final = 64 << 10
PCRS: Final = 24
MEASURED_PCRS: Final = (*range(10), *range(11, 15))  # 10 is IMA's; 15 to 23 can be extended or reset after boot
_PCR_BYTES: Final = 32
_HCL_MAGIC, _HCL_HEADER, _HARDWARE_REPORT = b"HCLA", 32, 1184
_SNP, _TDX, _SHA256 = 2, 4, 1
_TPM_MAGIC, _ATTEST_QUOTE, _ALG_SHA256 = b"\xffTCG", 0x8018, 0x000B
_ALL_SELECTED: Final = b"\x03\xff\xff\xff"
_HEX: Final = re.compile(r"^(?:[0-9a-fA-F]{2})*$")
_USER_DATA_BYTES: Final = 64
_KEY: Final = "HCLAkPub"


@dataclass(frozen=True, slots=True, kw_only=True)
class HclReport:
    """The paravisor's report: the hardware's own report, and the JSON ``runtime_data`` that it commits to.

    ``key`` is the vTPM's RSA attestation key (modulus, exponent); ``user_data`` is empty where the guest set none.
    """

    hardware: bytes
    is_snp: bool
    runtime_data: bytes
    key: tuple[int, int]
    user_data: bytes

    @property
    def commitment(self) -> bytes:
        """Return what the hardware's REPORTDATA must be: SHA-256 of the runtime data, then zeros."""
        return hashlib.sha256(self.runtime_data).digest() + bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmQuote:
    """A TPM's signed statement about its registers: ``nonce`` is qualifying data, ``pcr_digest`` covers ``pcrs``."""

    message: bytes
    signature: bytes
    nonce: bytes
    pcr_digest: bytes
    pcrs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureEvidence:
    """Both reports; ``hardware`` is the SNP report or TDX quote to verify, ``vcek`` in DER or PEM for the former."""

    hcl: HclReport
    tpm: TpmQuote
    hardware: bytes
    vcek: bytes

    @property
    def tee(self) -> TeeName:
        """Return ``azure-snp`` or ``azure-tdx``."""
        return "azure-snp" if self.hcl.is_snp else "azure-tdx"

    @property
    def report_data(self) -> bytes:
        """Return the 64 bytes to which both bindings lead: the vTPM's nonce and the paravisor's user data.

        Empty where they differ: then the evidence is bound to nobody.
        """
        padded = self.tpm.nonce.ljust(_USER_DATA_BYTES, b"\0")
        return padded if padded == self.hcl.user_data else b""


def azure_measurement(tee: str, launch: str, pcrs: tuple[bytes, ...]) -> str:
    """Return the canonical text of what was loaded: the paravisor's measurement and the guest's boot registers."""
    chosen = (pcrs[number] for number in MEASURED_PCRS)
    return f"{tee}:{digest384('strongroom/azure-measurement/v1', launch.encode(), *chosen).hex()}"


def measurement_of(evidence: AzureEvidence) -> str:
    """Return what the guest measures to, as its own evidence says; only verification makes it true."""
    hardware = evidence.hardware
    launch = parse_snp_report(hardware) if looks_like_snp(hardware) else parse_quote(hardware)
    return azure_measurement(evidence.tee, launch.measurement, evidence.tpm.pcrs)


def looks_like_azure(data: bytes) -> bool:
    """Say whether ``data`` is a JSON object with an HCL report in it, under its present or its first name."""
    return data[:1] == b"{" and (b'"hcl_report"' in data or (b'"report"' in data and b'"vcek"' in data))


def parse_azure(data: bytes) -> AzureEvidence:
    """Return the evidence in JSON: ``hcl_report``, ``tpm_quote``, and ``vcek`` or ``td_quote``.

    Agents first wrote ``report`` and ``quote``; those names are read too.
    """
    if len(data) > MAX_BYTES:
        raise _malformed("azure evidence", f"{len(data)} bytes", f"at most {MAX_BYTES}")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed("azure evidence", "other text", "JSON") from error
    if isinstance(body, dict) and "hcl_report" not in body:
        body = {"hcl_report": body.get("report"), "tpm_quote": body.get("quote"), "vcek": body.get("vcek")}
    if not isinstance(body, dict) or not isinstance(body.get("tpm_quote"), dict):
        raise _malformed("azure evidence", type(body).__name__, "an object with hcl_report and tpm_quote")
    hcl = parse_hcl_report(_decode(body.get("hcl_report"), "hcl_report"))
    vcek = b""
    hardware = hcl.hardware
    if hcl.is_snp:
        text = body.get("vcek")
        is_pem = isinstance(text, str) and text.lstrip().startswith("-----BEGIN")
        vcek = str(text).encode() if is_pem else _decode(text, "vcek")
    else:
        hardware = _decode(body.get("td_quote"), "td_quote")
    return AzureEvidence(hcl=hcl, tpm=_read_tpm(body["tpm_quote"]), hardware=hardware, vcek=vcek)


def parse_hcl_report(data: bytes) -> HclReport:
    """Return the paravisor's report as it lies in the vTPM's NV index 0x01400001; zeros may follow it."""
    reader = FieldReader(data, where="hcl report")
    header = reader.take(_HCL_HEADER, field="header")
    if not header.startswith(_HCL_MAGIC):
        raise _malformed("hcl report.header", header[:4].hex(), "HCLA")
    hardware = reader.take(_HARDWARE_REPORT, field="hardware report")
    reader.take_u32(field="size")
    reader.take_u32(field="version")
    kind, hashing = reader.take_u32(field="report type"), reader.take_u32(field="hash type")
    if kind not in (_SNP, _TDX) or hashing != _SHA256:
        raise _malformed("hcl report.type", f"{kind} hashed with {hashing}", "2 (SNP) or 4 (TDX), with 1 (SHA-256)")
    runtime_data = reader.take(reader.take_u32(field="length"), field="runtime data")
    if any(data[reader.offset :]):
        raise _malformed("hcl report", "bytes after the runtime data", "zeros")
    key, user_data = _read_runtime_data(runtime_data)
    return HclReport(hardware=hardware, is_snp=kind == _SNP, runtime_data=runtime_data, key=key, user_data=user_data)


def _read_runtime_data(data: bytes) -> tuple[tuple[int, int], bytes]:
    try:
        body = json.loads(data)
        keys = [one for one in body["keys"] if one["kid"] == _KEY and one["kty"] == "RSA"]
        if len(keys) != 1:
            raise _malformed("runtime data.keys", f"{len(keys)} keys named {_KEY}", "one")
        modulus, exponent = (int.from_bytes(_decode(keys[0][name], name), "big") for name in ("n", "e"))
        user_data = body.get("user-data", "")
        if not isinstance(user_data, str) or not _HEX.match(user_data) or len(user_data) not in (0, 128):
            raise _malformed("runtime data.user-data", repr(user_data)[:40], "64 bytes in hex")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed("runtime data", "other text", f"JSON with the RSA key {_KEY}") from error
    return (modulus, exponent), bytes.fromhex(user_data)


def _read_tpm(value: dict[str, Any]) -> TpmQuote:
    message, signature = _binary(value.get("message"), "message"), _binary(value.get("signature"), "signature")
    listed = value.get("pcrs")
    if not isinstance(listed, list) or len(listed) != PCRS:
        raise _malformed("tpm_quote.pcrs", type(listed).__name__, f"a list of {PCRS}")
    pcrs = tuple(_binary(one, "pcrs") for one in listed)
    if any(len(one) != _PCR_BYTES for one in pcrs):
        raise _malformed("tpm_quote.pcrs", "another length", f"{_PCR_BYTES} bytes each")
    nonce, pcr_digest = _read_attest(message)
    return TpmQuote(message=message, signature=signature, nonce=nonce, pcr_digest=pcr_digest, pcrs=pcrs)


def _read_attest(message: bytes) -> tuple[bytes, bytes]:
    """Return qualifying data and PCR digest of a TPMS_ATTEST, whose integers are big endian; all 24 PCRs of SHA-256."""
    reader = FieldReader(message, where="tpm_quote.message")
    if reader.take(4, field="magic") != _TPM_MAGIC:
        raise _malformed("tpm_quote.message.magic", message[:4].hex(), "ff544347: made inside a TPM")
    kind = _u16(reader, "type")
    if kind != _ATTEST_QUOTE:
        raise _malformed("tpm_quote.message.type", f"{kind:#06x}", "0x8018 (quote)")
    reader.take(_u16(reader, "signer"), field="signer")
    nonce = reader.take(_u16(reader, "extra data"), field="extra data")
    reader.take(17 + 8, field="clock and firmware")
    if int.from_bytes(reader.take(4, field="selections"), "big") != 1 or _u16(reader, "algorithm") != _ALG_SHA256:
        raise _malformed("tpm_quote.message.selections", "another bank", "one of SHA-256")
    selected = reader.take(4, field="selection")
    if selected != _ALL_SELECTED:
        raise _malformed("tpm_quote.message.selection", selected.hex(), "all 24 registers")
    pcr_digest = reader.take(_u16(reader, "digest"), field="digest")
    reader.finish()
    return nonce, pcr_digest


def _u16(reader: FieldReader, field: str) -> int:
    return int.from_bytes(reader.take(2, field=field), "big")


def _binary(value: object, name: str) -> bytes:
    """Return bytes written as hex, or as older agents did, as a list of numbers."""
    if isinstance(value, str) and len(value) <= MAX_BYTES and _HEX.match(value):
        return bytes.fromhex(value)
    if isinstance(value, list) and all(isinstance(one, int) and 0 <= one <= 255 for one in value):  # noqa: PLR2004
        return bytes(value)
    raise _malformed(f"tpm_quote.{name}", type(value).__name__, "hexadecimal text")


def _decode(value: object, name: str) -> bytes:
    """Return base64 of either alphabet, padded or not; or a list of numbers, as older agents wrote it."""
    if isinstance(value, list):
        return _binary(value, name)
    if not isinstance(value, str) or len(value) > MAX_BYTES:
        raise _malformed(f"azure evidence.{name}", type(value).__name__, "base64")
    try:
        text = value.rstrip("=").replace("+", "-").replace("/", "_")
        if not re.fullmatch(r"[0-9A-Za-z_-]*", text):
            raise _malformed(f"azure evidence.{name}", "other text", "base64")
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise _malformed(f"azure evidence.{name}", "other text", "base64") from error


def _malformed(field: str, got: str, expected: str) -> MalformedEvidenceError:
    return MalformedEvidenceError(field=field, got=got, expected=expected)
