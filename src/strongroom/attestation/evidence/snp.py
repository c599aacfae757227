"""Parse AMD SEV-SNP attestation reports, versions 2 to 5, and the certificates beside them (spec/4-release.md §3.13).

Source: AMD SEV-SNP Firmware ABI Specification (56860) 1.58, tables 23 (ATTESTATION_REPORT) and 154 (signature), and the
GHCB specification's certificate table. Integers little endian, the signature's too. It verifies nothing, and raises
nothing but MalformedEvidenceError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.evidence.layout import FieldReader
from strongroom.attestation.failures import MalformedEvidenceError

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 672
VERSIONS: Final = (2, 3, 4, 5)
ECDSA_P384_SHA384: Final = 1
SIGNING_KEYS: Final = {0: "VCEK", 1: "VLEK", 7: "none"}
_CPUID_VERSION, _MITIGATIONS_VERSION = 3, 5
_SCALAR_BYTES, _SCALAR_USED = 72, 48
_MAX_CERTIFICATES = 16
_TABLE_ENTRY = 24
_MAX_TABLE = 32 << 10
_TABLE_NAMES: Final = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTcb:
    """Security version numbers of a platform's firmware; ``fmc`` exists from Turin on and is 0 before."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0

    @classmethod
    def read(cls, raw: bytes, *, with_fmc: bool) -> SnpTcb:
        """Return a TCB_VERSION of 8 bytes; Turin and later put FMC first (table 4 of the specification)."""
        if with_fmc:
            return cls(fmc=raw[0], bootloader=raw[1], tee=raw[2], snp=raw[3], microcode=raw[7])
        return cls(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7])

    def behind(self, least: SnpTcb) -> tuple[str, ...]:
        """Return what is lower than ``least``, as phrases."""
        return tuple(
            f"{name} is {has}, needs {needs}"
            for name, has, needs in (
                ("boot loader", self.bootloader, least.bootloader),
                ("TEE", self.tee, least.tee),
                ("SNP firmware", self.snp, least.snp),
                ("microcode", self.microcode, least.microcode),
                ("FMC", self.fmc, least.fmc),
            )
            if has < needs
        )

    def to_json(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {
            "bootloader": self.bootloader,
            "tee": self.tee,
            "snp": self.snp,
            "microcode": self.microcode,
            "fmc": self.fmc,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """A report of an SEV-SNP guest; names follow AMD's, in lower case.

    ``cpuid`` is (family, model, stepping), or None in version 2, which does not have it. The four TCB_VERSION fields
    stay raw: their layout depends on the processor generation. ``signature`` is r then s as integers.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: bytes
    platform_info: int
    author_key_enabled: bool
    mask_chip_key: bool
    signing_key: str
    report_data: bytes
    launch_measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_version: tuple[int, int, int]
    committed_version: tuple[int, int, int]
    launch_tcb: bytes
    launch_mitigations: int
    current_mitigations: int
    signature: tuple[int, int]
    signed: bytes
    certificates: tuple[tuple[str, bytes], ...]

    @property
    def tee(self) -> TeeName:
        """Return ``snp``."""
        return "snp"

    @property
    def measurement(self) -> str:
        """Return ``snp:<launch digest in hex>``."""
        return snp_measurement(self.launch_measurement)


def snp_measurement(launch_digest: bytes) -> str:
    """Return the canonical text of a guest's launch digest."""
    return f"snp:{launch_digest.hex()}"


def looks_like_snp(data: bytes) -> bool:
    """Say whether ``data`` starts as a report does: its version as u32, where a DCAP quote has a key type."""
    return len(data) >= REPORT_BYTES and int.from_bytes(data[:4], "little") in VERSIONS


def parse_snp_report(data: bytes) -> SnpReport:
    """Return every field of a report, with the certificates of a table that follows it.

    Raise MalformedEvidenceError for another length, version or algorithm, and for reserved bytes that are not zero.
    """
    reader = FieldReader(data[:REPORT_BYTES], where="report")
    version = reader.take_u32(field="version")
    if version not in VERSIONS:
        raise MalformedEvidenceError(field="report.version", got=str(version), expected="2 to 5")
    guest_svn, policy = reader.take_u32(field="guest_svn"), _u64(reader, "policy")
    family_id, image_id = reader.take(16, field="family_id"), reader.take(16, field="image_id")
    vmpl, algorithm = reader.take_u32(field="vmpl"), reader.take_u32(field="signature_algo")
    if algorithm != ECDSA_P384_SHA384:
        raise MalformedEvidenceError(
            field="report.signature_algo", got=str(algorithm), expected="1 (ECDSA P-384 with SHA-384)"
        )
    current_tcb, platform_info = reader.take(8, field="current_tcb"), _u64(reader, "platform_info")
    flags = reader.take_u32(field="flags")
    if flags >> 5:
        raise MalformedEvidenceError(field="report.flags", got=f"{flags:#x}", expected="no bit above 4")
    _zero(reader, 4, field="reserved at 0x4c")
    report_data = reader.take(64, field="report_data")
    measurement, host_data = reader.take(48, field="measurement"), reader.take(32, field="host_data")
    id_key, author_key = reader.take(48, field="id_key_digest"), reader.take(48, field="author_key_digest")
    report_id, report_id_ma = reader.take(32, field="report_id"), reader.take(32, field="report_id_ma")
    reported_tcb = reader.take(8, field="reported_tcb")
    cpuid = reader.take(3, field="cpuid")
    if version < _CPUID_VERSION and any(cpuid):
        raise MalformedEvidenceError(field="report.cpuid", got=cpuid.hex(), expected="zero in version 2")
    _zero(reader, 21, field="reserved at 0x18b")
    chip_id, committed_tcb = reader.take(64, field="chip_id"), reader.take(8, field="committed_tcb")
    current, committed = _firmware(reader, "current"), _firmware(reader, "committed")
    launch_tcb = reader.take(8, field="launch_tcb")
    mitigations = (_u64(reader, "launch_mit_vector"), _u64(reader, "current_mit_vector"))
    if version < _MITIGATIONS_VERSION and any(mitigations):
        raise MalformedEvidenceError(
            field="report.mit_vector", got=f"{mitigations[0]:#x}, {mitigations[1]:#x}", expected="zero before version 5"
        )
    _zero(reader, SIGNED_BYTES - reader.offset, field="reserved at 0x208")
    signature = (_scalar(reader, "signature.r"), _scalar(reader, "signature.s"))
    _zero(reader, reader.left, field="signature.reserved")
    return SnpReport(
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        signature_algorithm=algorithm,
        current_tcb=current_tcb,
        platform_info=platform_info,
        author_key_enabled=bool(flags & 1),
        mask_chip_key=bool(flags & 2),
        signing_key=SIGNING_KEYS.get(flags >> 2 & 7, f"unknown ({flags >> 2 & 7})"),
        report_data=report_data,
        launch_measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key,
        author_key_digest=author_key,
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        cpuid=(cpuid[0], cpuid[1], cpuid[2]) if version >= _CPUID_VERSION else None,
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current_version=current,
        committed_version=committed,
        launch_tcb=launch_tcb,
        launch_mitigations=mitigations[0],
        current_mitigations=mitigations[1],
        signature=signature,
        signed=data[:SIGNED_BYTES],
        certificates=parse_certificate_table(data[REPORT_BYTES:]) if len(data) > REPORT_BYTES else (),
    )


def parse_certificate_table(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Return (``vcek``, ``vlek``, ``ask`` or ``ark``; DER) of a GHCB certificate table, in its order.

    Entries of other GUIDs are passed over; a table of zeros alone is an empty one.
    """
    if len(data) > _MAX_TABLE:
        raise MalformedEvidenceError(
            field="certificate table", got=f"{len(data)} bytes", expected=f"at most {_MAX_TABLE}"
        )
    reader = FieldReader(data, where="certificate table")
    found: list[tuple[str, bytes]] = []
    for _ in range(_MAX_CERTIFICATES + 1):
        guid = reader.take(16, field="guid")
        offset, length = reader.take_u32(field="offset"), reader.take_u32(field="length")
        if not any(guid):
            return tuple(found)
        if offset + length > len(data) or offset < _TABLE_ENTRY:
            raise MalformedEvidenceError(
                field="certificate table", got=f"an entry at {offset} of {length} bytes", expected=f"within {len(data)}"
            )
        name = _TABLE_NAMES.get(str(UUID(bytes=guid))) or _TABLE_NAMES.get(str(UUID(bytes_le=guid)))
        if name is not None:
            found.append((name, data[offset : offset + length]))
    raise MalformedEvidenceError(
        field="certificate table", got="more entries", expected=f"at most {_MAX_CERTIFICATES} and an end"
    )


def _u64(reader: FieldReader, field: str) -> int:
    return int.from_bytes(reader.take(8, field=field), "little")


def _zero(reader: FieldReader, length: int, *, field: str) -> None:
    reserved = reader.take(length, field=field)
    if any(reserved):
        raise MalformedEvidenceError(
            field=f"report.{field}", got=reserved.hex()[:40], expected="zero", hint="a newer report than this knows?"
        )


def _firmware(reader: FieldReader, field: str) -> tuple[int, int, int]:
    """Return a firmware version as (major, minor, build), which stands the other way round."""
    raw = reader.take(4, field=f"{field}_version")
    if raw[3]:
        raise MalformedEvidenceError(field=f"report.{field}_version", got=raw.hex(), expected="a fourth byte of zero")
    return (raw[2], raw[1], raw[0])


def _scalar(reader: FieldReader, field: str) -> int:
    """Return one number of the signature: 72 bytes little endian, of which P-384 uses 48."""
    raw = reader.take(_SCALAR_BYTES, field=field)
    if any(raw[_SCALAR_USED:]):
        raise MalformedEvidenceError(field=f"report.{field}", got="more than 384 bits", expected="zeros above")
    return int.from_bytes(raw, "little")
