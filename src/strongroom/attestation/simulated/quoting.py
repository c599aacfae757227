"""Be the simulated quoting enclave: sign SGX v3, TDX v4 and TDX v5 quotes, structurally genuine in every field.

Layouts: Intel, SGX ECDSA Quote Library API and TDX DCAP Quoting Library API, appendix A (little endian). The only
difference from hardware is who holds the keys: here a file does, so a quote proves nothing to anyone but this laptop.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from strongroom.attestation.simulated.faults import NO_FAULTS, Faults
from strongroom.attestation.simulated.pki import COMPONENT_SVNS, PCE_SVN, QE_PRODUCT, QE_SVN, TDX_SVNS, Vendor, sign_raw

REPORT_DATA_BYTES = 64

_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_TEE_TYPE = {"sgx": 0, "tdx": 0x81}
_INIT, _DEBUG, _MODE64, _PROVISION_KEY, _KSS = 0x01, 0x02, 0x04, 0x10, 0x80
_XFRM = 0xE7  # x87, SSE, AVX, AVX-512, PKRU off: what a Linux library OS asks for
_TD_DEBUG, _TD_SEPT_VE_DISABLE = 1 << 0, 1 << 28
_XFAM = 0x061AE7
_QE_AUTH_DATA = bytes(range(32))
_CERTIFICATES, _QE_REPORT = 5, 6  # certification data types
_UNFRAMED = struct.pack("<H", 3)  # the version whose certification stands in the open
_BODY_TD10, _BODY_TD15 = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxFacts:
    """What the simulated CPU knows about an enclave; digests are 32 bytes, ``config_id`` is at most 64."""

    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes = b""
    product: int = 1
    svn: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxFacts:
    """What the simulated TDX module knows about a trust domain; registers have 48 bytes, ``mr_config_id`` at most."""

    mr_td: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    mr_config_id: bytes = b""


def quote_sgx(vendor: Vendor, facts: SgxFacts, *, report_data: bytes, faults: Faults = NO_FAULTS) -> bytes:
    """Return an SGX quote, version 3, over 64 bytes of report data."""
    flags = _INIT | _MODE64 | _KSS
    flags |= _DEBUG if faults.debug else 0
    flags |= _PROVISION_KEY if faults.provision_key else 0
    body = _sgx_report(
        flags=flags,
        mr_enclave=facts.mr_enclave,
        mr_signer=facts.mr_signer,
        config_id=facts.config_id,
        product=facts.product,
        svn=facts.svn,
        report_data=_checked(report_data),
    )
    return sign_quote(vendor, "sgx", _header(3, "sgx") + body)


def quote_tdx(
    vendor: Vendor, facts: TdxFacts, *, report_data: bytes, version: int = 4, faults: Faults = NO_FAULTS
) -> bytes:
    """Return a TDX quote over 64 bytes of report data: version 4, or version 5 with a TD 1.5 body."""
    attributes = 0 if faults.sept_ve_off else _TD_SEPT_VE_DISABLE
    attributes |= _TD_DEBUG if faults.debug else 0
    svns = bytes(TDX_SVNS)
    body = b"".join(
        (
            svns,
            vendor.derive("mrseam", 48),
            bytes(48),  # MRSIGNERSEAM: zero means Intel's module
            bytes(8),  # SEAM attributes
            struct.pack("<QQ", attributes, _XFAM),
            facts.mr_td,
            facts.mr_config_id.ljust(48, b"\x00"),
            bytes(48),  # MROWNER
            bytes(48),  # MROWNERCONFIG
            *facts.rtmrs,
            _checked(report_data),
        )
    )
    if version == 5:  # noqa: PLR2004  the quote format's own number
        body += svns + bytes(48)  # TEE_TCB_SVN2 and MRSERVICETD
        body = struct.pack("<HI", _BODY_TD15, len(body)) + body
    return sign_quote(vendor, "tdx", _header(version, "tdx") + body)


def sign_quote(vendor: Vendor, tee: str, signed: bytes, *, generation: int = 0) -> bytes:
    """Return header and body with signature and certification by the quoting enclave for ``tee``.

    ``generation``: how often the platform has renewed its attestation key.
    """
    key, certification = _certify(vendor, tee, generation)
    if signed[:2] != _UNFRAMED:
        certification = struct.pack("<HI", _QE_REPORT, len(certification)) + certification
    tail = sign_raw(key, signed) + _raw_public(key) + certification
    return signed + struct.pack("<I", len(tail)) + tail


@lru_cache(maxsize=2048)
def _certify(vendor: Vendor, tee: str, generation: int) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Return the attestation key and what vouches for it: QE report, PCK signature, authentication data, PCK chain.

    Certified once per process, as Intel's quoting enclaves keep the certification beside the key and copy it into each
    quote.
    """
    key = vendor.derive_key(f"attestation/{tee}/{generation}" if generation else f"attestation/{tee}")
    committed = hashlib.sha256(_raw_public(key) + _QE_AUTH_DATA).digest() + bytes(32)
    report = _sgx_report(
        flags=_INIT | _MODE64 | _PROVISION_KEY,
        mr_enclave=vendor.derive(f"qe-mrenclave/{tee}"),
        mr_signer=vendor.qe_signer,
        config_id=b"",
        product=QE_PRODUCT[tee],
        svn=QE_SVN,
        report_data=committed,
    )
    certification = b"".join(
        (
            report,
            sign_raw(vendor.pck.key, report),
            struct.pack("<H", len(_QE_AUTH_DATA)),
            _QE_AUTH_DATA,
            struct.pack("<HI", _CERTIFICATES, len(vendor.pck_chain)),
            vendor.pck_chain,
        )
    )
    return key, certification


def _sgx_report(
    *, flags: int, mr_enclave: bytes, mr_signer: bytes, config_id: bytes, product: int, svn: int, report_data: bytes
) -> bytes:
    """Return a 384-byte enclave report body."""
    return b"".join(
        (
            bytes(COMPONENT_SVNS),
            bytes(32),  # MISCSELECT, reserved, ISVEXTPRODID
            struct.pack("<QQ", flags, _XFRM),
            mr_enclave,
            bytes(32),
            mr_signer,
            bytes(32),
            config_id.ljust(64, b"\x00"),
            struct.pack("<HHH", product, svn, 0),
            bytes(42),
            bytes(16),  # ISVFAMILYID
            report_data,
        )
    )


def _header(version: int, tee: str) -> bytes:
    # Version 3 carries QESVN and PCESVN here; versions 4 and 5 keep the bytes reserved.
    svns = struct.pack("<HH", QE_SVN, PCE_SVN) if version == 3 else bytes(4)  # noqa: PLR2004
    return struct.pack("<HHI", version, 2, _TEE_TYPE[tee]) + svns + _VENDOR_ID + bytes(20)


def _raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def _checked(report_data: bytes) -> bytes:
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError(f"report data has {REPORT_DATA_BYTES} bytes, got {len(report_data)}")
    return report_data
