"""Be the simulated vendor: the certificates and collateral that Intel would issue, under a root of our own.

Everything follows from one 32-byte seed, so the root stays the same as long as the platform directory lives. Every
subject says SIMULATED TEE - PROTECTS NOTHING; nothing here ever chains to a real vendor. Formats: Intel PCK
Certificate and CRL Profile; TCB info v3 and QE identity v2 of the Provisioning Certification Service v4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from strongroom.attestation.simulated.faults import NO_FAULTS, Faults
from strongroom.attestation.simulated.sgx_extension import SGX_EXTENSION_OID, encode_sgx_extension

SEED_BYTES = 32
ORGANIZATION = "SIMULATED TEE - PROTECTS NOTHING"
COMPONENT_SVNS = (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 13
TDX_SVNS = (5, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)  # [1] names the module identity, TDX_01; [0] its ISVSVN
QE_SVN = 8
EVALUATION_NUMBER = 20
QE_PRODUCT = {"sgx": 1, "tdx": 2}

_BORN = datetime(2025, 1, 1, tzinfo=UTC)
_DIES = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
_TCB_DATE = "2025-05-14T00:00:00Z"
_VALID_FOR = timedelta(days=30)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SIGNING = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One key pair of the vendor and the certificate that names it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """Return the certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()


class Vendor:
    """A hardware vendor that exists only in one directory: root, platform CA, one platform, TCB signer."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
        self._seed = seed

    def derive(self, label: str, size: int = 32) -> bytes:
        """Return ``size`` bytes that only this seed and label give (HKDF-SHA256)."""
        info = f"strongroom/simulated-tee/v1/{label}".encode()
        return HKDF(algorithm=hashes.SHA256(), length=size, salt=None, info=info).derive(self._seed)

    def derive_key(self, label: str) -> ec.EllipticCurvePrivateKey:
        """Return the P-256 key of ``label``."""
        scalar = int.from_bytes(self.derive(f"key/{label}", 48), "big") % (_P256_ORDER - 1) + 1
        return ec.derive_private_key(scalar, ec.SECP256R1())

    @cached_property
    def fmspc(self) -> bytes:
        """Return the 6 bytes that name the platform model; "SIM" in ASCII comes first."""
        return b"SIM" + self.derive("fmspc", 3)

    @cached_property
    def qe_signer(self) -> bytes:
        """Return the MRSIGNER of the simulated quoting enclave."""
        return self.derive("qe-mrsigner")

    @cached_property
    def root(self) -> Identity:
        """Return the self-signed root, path length 1."""
        return self._issue("Simulated SGX Root CA", issuer=None, authority=1)

    @cached_property
    def platform_ca(self) -> Identity:
        """Return the CA of platform certificates, path length 0."""
        return self._issue("Simulated SGX PCK Platform CA", issuer=self.root, authority=0)

    @cached_property
    def tcb_signer(self) -> Identity:
        """Return the signer of TCB info and QE identity, directly under the root."""
        return self._issue("Simulated SGX TCB Signing", issuer=self.root)

    @cached_property
    def pck(self) -> Identity:
        """Return the platform's provisioning certification key, with the SGX extension."""
        extension = encode_sgx_extension(
            ppid=self.derive("ppid", 16),
            component_svns=COMPONENT_SVNS,
            pce_svn=PCE_SVN,
            pce_id=b"\x00\x00",
            fmspc=self.fmspc,
            instance_id=self.derive("platform-instance", 16),
        )
        return self._issue("Simulated SGX PCK Certificate", issuer=self.platform_ca, sgx_extension=extension)

    @property
    def root_der(self) -> bytes:
        """Return the root certificate in DER: the trust anchor."""
        return self.root.certificate.public_bytes(Encoding.DER)

    @cached_property
    def pck_chain(self) -> bytes:
        """Return leaf, CA and root as PEM, NUL-terminated as real quoting enclaves do."""
        return (self.pck.pem + self.platform_ca.pem + self.root.pem).encode() + b"\x00"

    def impostor(self) -> Vendor:
        """Return a vendor with a root of its own that looks just like this one."""
        return Vendor(self.derive("impostor"))

    def collateral(self, tee: str, *, now: datetime, faults: Faults = NO_FAULTS) -> str:
        """Return QuoteCollateralV3 JSON for ``tee`` ("sgx" or "tdx"), issued on the day of ``now``, valid 30 days.

        Two processes that share a platform directory issue the same collateral on the same day, and CRL numbers only
        grow, so a verifier's memory sees no rollback.
        """
        issued = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if faults.expired_collateral:
            issued = now - _VALID_FOR - timedelta(days=1)
        elif faults.future_collateral:
            issued = now + timedelta(days=1)
        revoked = {"platform-ca": self.platform_ca, "tcb-signer": self.tcb_signer, "pck": self.pck}
        out = [revoked[faults.revoked]] if faults.revoked else []
        by_root = [one for one in out if one is not self.pck]
        by_ca = [one for one in out if one is self.pck]
        info = _compact(self._tcb_info(tee, issued, faults))
        qe = _compact(self._qe_identity(tee, issued, faults))
        info_signer = self.pck if faults.tcb_info_signed_by_pck else self.tcb_signer
        qe_signer = self.pck if faults.qe_identity_signed_by_pck else self.tcb_signer
        return json.dumps(
            {
                "pck_crl_issuer_chain": self.platform_ca.pem + self.root.pem,
                "root_ca_crl": self._crl(self.root, by_root, issued).hex(),
                "pck_crl": self._crl(self.platform_ca, by_ca, issued).hex(),
                "tcb_info_issuer_chain": self._chain(info_signer),
                "tcb_info": info,
                "tcb_info_signature": sign_raw(info_signer.key, info.encode()).hex(),
                "qe_identity_issuer_chain": self._chain(qe_signer),
                "qe_identity": qe,
                "qe_identity_signature": sign_raw(qe_signer.key, qe.encode()).hex(),
            }
        )

    def _chain(self, signer: Identity) -> str:
        middle = self.platform_ca.pem if signer is self.pck else ""
        return signer.pem + middle + self.root.pem

    def _tcb_info(self, tee: str, issued: datetime, faults: Faults) -> dict[str, Any]:
        fmspc = bytes(6) if faults.other_fmspc else self.fmspc
        info: dict[str, Any] = {
            "id": tee.upper(),
            "version": 3,
            **_window(issued),
            "fmspc": fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": _evaluation_number(faults),
        }
        if tee == "tdx":
            module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            level = {"tcb": {"isvsvn": TDX_SVNS[0]}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"}
            info["tdxModule"] = module
            info["tdxModuleIdentities"] = [{"id": f"TDX_{TDX_SVNS[1]:02X}", **module, "tcbLevels": [level]}]
        reached = _tcb_level(tee, pce_svn=PCE_SVN, status=faults.tcb_status, advisories=faults.advisories)
        newest = _tcb_level(tee, pce_svn=PCE_SVN + 1, status="UpToDate", advisories=())
        info["tcbLevels"] = [newest, reached] if faults.tcb_status.startswith("OutOfDate") else [reached]
        return info

    def _qe_identity(self, tee: str, issued: datetime, faults: Faults) -> dict[str, Any]:
        levels = [{"tcb": {"isvsvn": QE_SVN}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"}]
        if faults.qe_out_of_date:
            levels[0]["tcbStatus"] = "OutOfDate"
            levels.insert(0, {"tcb": {"isvsvn": QE_SVN + 1}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"})
        return {
            "id": "TD_QE" if tee == "tdx" else "QE",
            "version": 2,
            **_window(issued),
            "tcbEvaluationDataNumber": _evaluation_number(faults),
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11" + "00" * 15,
            "attributesMask": "FB" + "FF" * 7 + "00" * 8,
            "mrsigner": self.qe_signer.hex().upper(),
            "isvprodid": QE_PRODUCT[tee],
            "tcbLevels": levels,
        }

    def _issue(
        self, name: str, *, issuer: Identity | None, authority: int | None = None, sgx_extension: bytes = b""
    ) -> Identity:
        key = self.derive_key(name)
        subject = _subject(name)
        signer_key = issuer.key if issuer else key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(self.derive(f"serial/{name}", 19), "big") | 1)
            .not_valid_before(_BORN)
            .not_valid_after(_DIES)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), critical=False)
            .add_extension(x509.CRLDistributionPoints([_NOWHERE]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_usage(authority=authority is not None), critical=True)
            .add_extension(x509.BasicConstraints(ca=authority is not None, path_length=authority), critical=True)
        )
        if sgx_extension:
            oid = x509.ObjectIdentifier(SGX_EXTENSION_OID)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, sgx_extension), critical=False)
        certificate = builder.sign(signer_key, hashes.SHA256(), ecdsa_deterministic=True)
        return Identity(key=key, certificate=certificate)

    def _crl(self, issuer: Identity, revoked: Sequence[Identity], issued: datetime) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.certificate.subject)
            .last_update(issued)
            .next_update(issued + _VALID_FOR)
            .add_extension(x509.CRLNumber(int(issued.timestamp()) // 86400), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        )
        for one in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
            entry = entry.revocation_date(issued).add_extension(
                x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False
            )
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(issuer.key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return the ECDSA P-256 signature as r then s, 32 bytes each, as quotes and TCB info carry it."""
    r, s = decode_dss_signature(key.sign(message, _SIGNING))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


_NOWHERE = x509.DistributionPoint(
    full_name=[x509.UniformResourceIdentifier("https://simulated-tee.invalid/crl.der")],
    relative_name=None,
    reasons=None,
    crl_issuer=None,
)


def _subject(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Nowhere"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),  # Intel's library insists on the shape of Intel's names
        ]
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=not authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _tcb_level(tee: str, *, pce_svn: int, status: str, advisories: Sequence[str]) -> dict[str, Any]:
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in COMPONENT_SVNS], "pcesvn": pce_svn}
    if tee == "tdx":
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in TDX_SVNS]
    level: dict[str, Any] = {"tcb": tcb, "tcbDate": _TCB_DATE, "tcbStatus": status}
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def _window(issued: datetime) -> dict[str, str]:
    return {"issueDate": f"{issued:%Y-%m-%dT%H:%M:%SZ}", "nextUpdate": f"{issued + _VALID_FOR:%Y-%m-%dT%H:%M:%SZ}"}


def _evaluation_number(faults: Faults) -> int:
    return EVALUATION_NUMBER if faults.evaluation_number is None else faults.evaluation_number


def _compact(value: dict[str, Any]) -> str:
    """Return the JSON text that is signed verbatim: a re-serialised copy would not verify."""
    return json.dumps(value, separators=(",", ":"))
