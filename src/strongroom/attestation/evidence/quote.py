"""Parse DCAP quotes: SGX version 3, TDX versions 4 and 5 with a TD 1.0 or TD 1.5 body (spec/4-release.md §3.1).

Every length is exact and every byte accounted for; after the quote only zero bytes may follow (platforms pad quotes
to a fixed size). It verifies nothing, and raises nothing but MalformedEvidenceError.

A quote is not identified by the hash of its bytes: padding and the two values of s that every ECDSA signature admits
leave several encodings of the same evidence. Freshness is the nonce's task.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.attestation.evidence.carriage import MAX_QUOTE_BYTES, TeeName
from strongroom.attestation.evidence.layout import FieldReader, Layout
from strongroom.attestation.evidence.report import (
    TD10_BODY_BYTES,
    TD15_BODY_BYTES,
    EnclaveReport,
    TdReport,
)
from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.digests import digest384

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
ECDSA_P256 = 2
SGX_TEE_TYPE = 0x00
TDX_TEE_TYPE = 0x81
PCK_CHAIN = 5
_QE_REPORT_CERTIFICATION = 6
_TD_BODIES = {2: TD10_BODY_BYTES, 3: TD15_BODY_BYTES}
_SGX, _TDX, _TDX_FRAMED = 3, 4, 5
_HEADER = Layout(
    version="H", attestation_key_type="H", tee_type="I", qe_svn="H", pce_svn="H", qe_vendor="16s", user_data="20s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteHeader:
    """The first 48 bytes of a quote; ``qe_svn`` and ``pce_svn`` are reserved (zero) in TDX quotes."""

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteSignature:
    """What follows the signed part: signature (r then s), attestation key (x then y), the QE's report and its chain.

    ``certification_type`` is Intel's number for what ``certification_data`` is: 5 a PEM chain, 1-3 an identifier of the
    platform whose chain must come with the collateral.
    """

    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes

    @property
    def pck_chain(self) -> bytes:
        """Return the PEM certificates inside the quote, without trailing NUL; empty if it carries none."""
        return self.certification_data.rstrip(b"\0") if self.certification_type == PCK_CHAIN else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxQuote:
    """A quote of an SGX enclave. ``size`` and ``padding`` are bytes with and of the zeros after it."""

    header: QuoteHeader
    report: EnclaveReport
    signature: QuoteSignature
    signed: bytes
    size: int
    padding: int

    @property
    def tee(self) -> TeeName:
        """Return ``sgx``."""
        return "sgx"

    @property
    def report_data(self) -> bytes:
        """Return the 64 bytes the workload chose."""
        return self.report.report_data

    @property
    def measurement(self) -> str:
        """Return ``sgx:<MRENCLAVE in hex>``."""
        return sgx_measurement(self.report.mrenclave)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxQuote:
    """A quote of a TDX trust domain. ``size`` and ``padding`` are bytes with and of the zeros after it."""

    header: QuoteHeader
    report: TdReport
    signature: QuoteSignature
    signed: bytes
    size: int
    padding: int

    @property
    def tee(self) -> TeeName:
        """Return ``tdx``."""
        return "tdx"

    @property
    def report_data(self) -> bytes:
        """Return the 64 bytes the workload chose."""
        return self.report.report_data

    @property
    def measurement(self) -> str:
        """Return ``tdx:<SHA-384 in hex>`` over the framed MRTD and RTMR0..RTMR3."""
        return tdx_measurement(self.report.mrtd, self.report.rtmrs)


Quote = SgxQuote | TdxQuote


def sgx_measurement(mrenclave: bytes) -> str:
    """Return the canonical text of an enclave's measurement."""
    return f"sgx:{mrenclave.hex()}"


def tdx_measurement(mrtd: bytes, rtmrs: tuple[bytes, bytes, bytes, bytes]) -> str:
    """Return the canonical text of a trust domain's measurement: one digest over MRTD and the four RTMRs."""
    return f"tdx:{digest384('strongroom/tdx-measurement/v1', mrtd, *rtmrs).hex()}"


def parse_quote(data: bytes) -> Quote:
    """Return every field of a quote; raise MalformedEvidenceError naming the field that is not as prescribed."""
    if len(data) > MAX_QUOTE_BYTES:
        raise MalformedEvidenceError(field="quote", got=f"{len(data)} bytes", expected=f"at most {MAX_QUOTE_BYTES}")
    reader = FieldReader(data, where="quote")
    header = _read_header(reader)
    if header.version == _SGX:
        enclave = EnclaveReport.read(reader)
        signed, signature, size = _read_signature(data, reader, framed=False)
        return SgxQuote(
            header=header, report=enclave, signature=signature, signed=signed, size=size, padding=len(data) - size
        )
    td_report = TdReport.read(reader, body_bytes=_read_td_body_size(reader, header.version))
    signed, signature, size = _read_signature(data, reader, framed=True)
    return TdxQuote(
        header=header, report=td_report, signature=signature, signed=signed, size=size, padding=len(data) - size
    )


def _read_header(reader: FieldReader) -> QuoteHeader:
    """Read and check the header; which TEE it names must agree with its version, as in Intel's verifier."""
    reader.where = "quote.header"
    header = QuoteHeader(**reader.take_all(_HEADER))
    reader.where = "quote.body"
    if header.version not in (_SGX, _TDX, _TDX_FRAMED):
        raise MalformedEvidenceError(
            field="quote.header.version",
            got=str(header.version),
            expected="3 (SGX), 4 or 5 (TDX)",
            hint="this is not an SGX or TDX DCAP quote; `strongroom inspect` says what a file is",
        )
    tee_type = SGX_TEE_TYPE if header.version == _SGX else TDX_TEE_TYPE
    if header.tee_type != tee_type:
        raise MalformedEvidenceError(
            field="quote.header.tee_type",
            got=f"{header.tee_type:#x}",
            expected=f"{tee_type:#x} in a version {header.version} quote",
        )
    if header.attestation_key_type != ECDSA_P256:
        raise MalformedEvidenceError(
            field="quote.header.attestation_key_type",
            got=str(header.attestation_key_type),
            expected="2 (ECDSA with P-256)",
            hint="only ECDSA quotes can be verified without the vendor's online service",
        )
    if header.qe_vendor != INTEL_QE_VENDOR:
        raise MalformedEvidenceError(
            field="quote.header.qe_vendor", got=header.qe_vendor.hex(), expected=f"{INTEL_QE_VENDOR.hex()} (Intel)"
        )
    return header


def _read_td_body_size(reader: FieldReader, version: int) -> int:
    """Return the length of the TD report, reading the body frame that version 5 has."""
    if version == _TDX:
        return TD10_BODY_BYTES
    body_type = reader.take_u16(field="type")
    size = reader.take_u32(field="size")
    if body_type not in _TD_BODIES:
        raise MalformedEvidenceError(field="quote.body.type", got=str(body_type), expected="2 (TD 1.0) or 3 (TD 1.5)")
    if size != _TD_BODIES[body_type]:
        raise MalformedEvidenceError(
            field="quote.body.size", got=str(size), expected=f"{_TD_BODIES[body_type]} for body type {body_type}"
        )
    return size


def _read_signature(data: bytes, reader: FieldReader, *, framed: bool) -> tuple[bytes, QuoteSignature, int]:
    """Return the signed bytes, the signature section and the offset at which the quote ends.

    ``framed``: TDX quotes wrap the QE's report and chain in certification data of type 6.
    """
    signed = data[: reader.offset]
    length = reader.take_u32(field="signature_length")
    if length > reader.left:
        raise MalformedEvidenceError(
            field="quote.signature_length",
            got=f"{length}, but {reader.left} bytes follow",
            expected="all of the signature section",
            hint="the quote was cut short",
        )
    end = reader.offset + length
    section = FieldReader(data, where="quote.signature", offset=reader.offset, end=end)
    signature = section.take(64, field="signature")
    attestation_key = section.take(64, field="attestation_key")
    if framed:
        kind = section.take_u16(field="certification_type")
        if kind != _QE_REPORT_CERTIFICATION:
            raise MalformedEvidenceError(
                field="quote.signature.certification_type", got=str(kind), expected="6 (report of the quoting enclave)"
            )
        inner = section.take_u32(field="certification_length")
        if inner != section.left:
            raise MalformedEvidenceError(
                field="quote.signature.certification_length", got=str(inner), expected=f"{section.left}, the rest"
            )
    section.where = "quote.signature.qe_report"
    qe_report = EnclaveReport.read(section)
    section.where = "quote.signature"
    qe_report_signature = section.take(64, field="qe_report_signature")
    auth_data = section.take(section.take_u16(field="qe_auth_length"), field="qe_auth_data")
    certification_type = section.take_u16(field="chain_type")
    certification_data = section.take(section.take_u32(field="chain_length"), field="chain")
    section.finish()
    _check_padding(data, end)
    return (
        signed,
        QuoteSignature(
            signature=signature,
            attestation_key=attestation_key,
            qe_report=qe_report,
            qe_report_signature=qe_report_signature,
            qe_auth_data=auth_data,
            certification_type=certification_type,
            certification_data=certification_data,
        ),
        end,
    )


def _check_padding(data: bytes, end: int) -> None:
    padding = data[end:]
    if padding.count(0) != len(padding):
        first = len(padding) - len(padding.lstrip(b"\0"))
        raise MalformedEvidenceError(
            field="quote",
            got=f"byte {padding[first]:#04x} at offset {end + first}, after its end at {end}",
            expected="nothing but zero padding",
            hint="something was appended to the quote",
        )
