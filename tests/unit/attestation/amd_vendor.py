"""Be AMD in tests: a root, two authorities, chips and reports that differ from genuine ones in their root alone."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from strongroom.attestation.amd_endorsements import format_amd_endorsements
from strongroom.attestation.anchors import TrustAnchor

BORN, DIES = datetime(2023, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)
CHIP = bytes(range(64))
TCB = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
FMS = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_ARC = "1.3.6.1.4.1.3704.1"


class AmdVendor:
    """A vendor of SEV-SNP machines of one generation, with one chip and one cloud provider."""

    def __init__(self, generation: str = "Milan", *, tcb: dict[str, int] | None = None, csp: str = "CN=cloud.example"):
        self.generation = generation
        self.tcb = TCB if tcb is None else tcb
        self.csp = csp

    @cached_property
    def keys(self) -> dict[str, rsa.RSAPrivateKey]:
        return {name: rsa.generate_private_key(65537, 2048) for name in ("ark", "ask", "asvk")}

    @cached_property
    def chip_key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP384R1())

    @cached_property
    def ark(self) -> x509.Certificate:
        name = f"ARK-{self.generation}"
        return _certify(name, self.keys["ark"].public_key(), name, self.keys["ark"], serial=65536)

    @cached_property
    def ask(self) -> x509.Certificate:
        return _certify(
            f"SEV-{self.generation}", self.keys["ask"].public_key(), self.ark, self.keys["ark"], serial=65537
        )

    @cached_property
    def asvk(self) -> x509.Certificate:
        name = f"SEV-VLEK-{self.generation}"
        return _certify(name, self.keys["asvk"].public_key(), self.ark, self.keys["ark"], serial=65793)

    @property
    def anchor(self) -> TrustAnchor:
        return TrustAnchor(root_der=self.ark.public_bytes(Encoding.DER), simulated=True)

    def vcek(self, *, chip: bytes = CHIP, wrapped: bool = False, **tcb: int) -> x509.Certificate:
        chip = chip[:8] if self.generation == "Turin" else chip
        extensions = {**self._numbers(tcb), "4": b"\x04" + bytes([len(chip)]) + chip if wrapped else chip}
        return _certify(
            "SEV-VCEK", self.chip_key.public_key(), self.ask, self.keys["ask"], serial=1, extensions=extensions
        )

    def vlek(self, **tcb: int) -> x509.Certificate:
        name = self.csp.encode()
        extensions = {**self._numbers(tcb), "5": b"\x16" + bytes([len(name)]) + name}
        return _certify(
            "SEV-VLEK", self.chip_key.public_key(), self.asvk, self.keys["asvk"], serial=1, extensions=extensions
        )

    def _numbers(self, tcb: dict[str, int]) -> dict[str, bytes]:
        values = {**self.tcb, **tcb}
        places = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
        return {places[name]: _integer(value) for name, value in values.items()}

    def crl(self, *, now: datetime, revoke: x509.Certificate | None = None, number: int = 7, days: int = 90) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ark.subject)
            .last_update(now - timedelta(days=1))
            .next_update(now + timedelta(days=days))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        if revoke is not None:
            entry = x509.RevokedCertificateBuilder().serial_number(revoke.serial_number).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        crl = builder.sign(self.keys["ark"], hashes.SHA384(), rsa_padding=_PSS)
        return crl.public_bytes(Encoding.DER)

    def endorsements(self, leaf: x509.Certificate | None = None, *, crl: bytes = b"") -> str:
        chain = (leaf or self.vcek(), self.ask, self.asvk, self.ark)
        return format_amd_endorsements("".join(one.public_bytes(Encoding.PEM).decode() for one in chain), crl=crl)

    def report(
        self,
        *,
        report_data: bytes = bytes(64),
        version: int = 3,
        signed: bool = True,
        chip: bytes = CHIP,
        **changes: int,
    ) -> bytes:
        """Return a signed report; ``changes`` are fields by name, see the body below."""
        field = {
            "policy": 0x30000,
            "vmpl": 0,
            "flags": 0,
            "platform": 0x25,
            "reserved": 0,
            "algorithm": 1,
            **changes,
        }
        tcb = _tcb(self.tcb, turin=self.generation == "Turin")
        body = bytearray(1184)
        struct.pack_into("<IIQ", body, 0, version, 1, field["policy"])
        struct.pack_into("<II", body, 0x30, field["vmpl"], field["algorithm"])
        struct.pack_into("<QI", body, 0x40, field["platform"], field["flags"])
        body[0x38:0x40] = body[0x180:0x188] = body[0x1E0:0x1E8] = body[0x1F0:0x1F8] = tcb
        body[0x4C] = field["reserved"]
        body[0x50:0x90] = report_data
        body[0x90:0xC0] = b"M" * 48
        body[0xC0:0xE0] = b"H" * 32
        if version >= 3:
            body[0x188:0x18B] = bytes(FMS[self.generation])
        body[0x1A0:0x1E0] = chip[:8].ljust(64, b"\0") if self.generation == "Turin" else chip
        body[0x1E8:0x1F0] = bytes((29, 55, 1, 0)) * 2
        if signed:
            r, s = decode_dss_signature(self.chip_key.sign(bytes(body[:0x2A0]), ec.ECDSA(hashes.SHA384())))
            body[0x2A0:0x2E8], body[0x2E8:0x330] = r.to_bytes(72, "little"), s.to_bytes(72, "little")
        return bytes(body)


def certificate_table(entries: list[tuple[str, bytes]]) -> bytes:
    """Return a GHCB certificate table of (GUID, DER)."""
    from uuid import UUID

    offset, head, tail = 24 * (len(entries) + 1), b"", b""
    for guid, der in entries:
        head += UUID(guid).bytes_le + struct.pack("<II", offset + len(tail), len(der))
        tail += der
    return head + bytes(24) + tail


def _certify(name, key, issuer, signer, *, serial, extensions=None) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer) if isinstance(issuer, str) else issuer.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(BORN)
        .not_valid_after(DIES)
    )
    for arc, value in (extensions or {}).items():
        oid = x509.ObjectIdentifier(f"{_ARC}.{arc}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(signer, hashes.SHA384(), rsa_padding=_PSS)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED AMD - PROTECTS NOTHING"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _integer(value: int) -> bytes:
    raw = value.to_bytes(2 if value > 127 else 1, "big")
    return b"\x02" + bytes([len(raw)]) + raw


def _tcb(tcb: dict[str, int], *, turin: bool) -> bytes:
    if turin:
        return bytes((tcb.get("fmc", 0), tcb["bootloader"], tcb["tee"], tcb["snp"], 0, 0, 0, tcb["microcode"]))
    return bytes((tcb["bootloader"], tcb["tee"], 0, 0, 0, 0, tcb["snp"], tcb["microcode"]))
