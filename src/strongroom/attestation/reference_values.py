"""Compute or read reference values from what is loaded, so that no measurement has to be taken on trust.

SGX: the SIGSTRUCT that Gramine and others sign. TDX: MRTD of a known firmware and the registers that a boot event log
leads to. SEV-SNP: the launch digest of firmware, processors and kernel, computed by the library sev-snp-measure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from strongroom.attestation.evidence.event_log import parse_event_log, replay
from strongroom.attestation.evidence.layout import FieldReader
from strongroom.attestation.evidence.quote import sgx_measurement, tdx_measurement
from strongroom.attestation.evidence.snp import snp_measurement
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError
from strongroom.errors import UsageError

SIGSTRUCT_BYTES: Final = 1808
PROCESSORS: Final = ("EPYC-Milan", "EPYC-Genoa", "EPYC-Turin")
_HEADER: Final = bytes.fromhex("06000000E10000000000010000000000")
_HEADER2: Final = bytes.fromhex("01010000600000006000000001000000")
_EXPONENT: Final = 3
_SIGNED_HEAD, _SIGNED_BODY = slice(0, 128), slice(900, 1028)
_DEBUG: Final = 1 << 1
_MRTD_BYTES: Final = 48
_MOST_PROCESSORS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigstruct:
    """What an enclave's author signed; ``mrsigner`` is the digest of the author's key; ``date`` is its BCD, YYYYMMDD.

    ``may_debug`` says that the author lets the enclave be started in debug mode, where it protects nothing.
    """

    mrenclave: bytes
    mrsigner: bytes
    isvprodid: int
    isvsvn: int
    attributes: int
    attribute_mask: int
    date: str
    isvextprodid: bytes
    isvfamilyid: bytes

    @property
    def may_debug(self) -> bool:
        """Say whether the attributes allow debug, by value or by mask."""
        return bool(self.attributes & _DEBUG) or not self.attribute_mask & _DEBUG

    @property
    def measurement(self) -> str:
        """Return the canonical text of the enclave's measurement."""
        return sgx_measurement(self.mrenclave)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "measurement": self.measurement,
            "mrenclave": self.mrenclave.hex(),
            "mrsigner": self.mrsigner.hex(),
            "isvprodid": self.isvprodid,
            "isvsvn": self.isvsvn,
            "may_debug": self.may_debug,
            "date": self.date,
        }


def read_sigstruct(data: bytes) -> Sigstruct:
    """Return an SGX SIGSTRUCT (a `.sig` file) whose signature holds (Intel SDM vol. 3D, table "SIGSTRUCT").

    Raise MalformedEvidenceError for another shape, MeasurementError for a signature that does not hold.
    """
    if len(data) != SIGSTRUCT_BYTES:
        raise MalformedEvidenceError(field="sigstruct", got=f"{len(data)} bytes", expected=f"{SIGSTRUCT_BYTES}")
    reader = FieldReader(data, where="sigstruct")
    header = reader.take(16, field="header")
    reader.take_u32(field="vendor")
    date = reader.take_u32(field="date")
    header2 = reader.take(16, field="header2")
    if header != _HEADER or header2 != _HEADER2:
        raise MalformedEvidenceError(
            field="sigstruct.header", got=header.hex(), expected=_HEADER.hex(), hint="is this Gramine's .sig file?"
        )
    reader.take(4 + 84, field="swdefined")
    modulus, exponent = reader.take(384, field="modulus"), reader.take_u32(field="exponent")
    signature = reader.take(384, field="signature")
    reader.take(4 + 4 + 4, field="miscselect")
    family = reader.take(16, field="isvfamilyid")
    attributes = int.from_bytes(reader.take(16, field="attributes")[:8], "little")
    mask = int.from_bytes(reader.take(16, field="attributemask")[:8], "little")
    mrenclave = reader.take(32, field="enclavehash")
    reader.take(16, field="reserved")
    extended = reader.take(16, field="isvextprodid")
    product, version = reader.take_u16(field="isvprodid"), reader.take_u16(field="isvsvn")
    if exponent != _EXPONENT:
        raise MalformedEvidenceError(field="sigstruct.exponent", got=str(exponent), expected="3")
    try:
        key = rsa.RSAPublicNumbers(_EXPONENT, int.from_bytes(modulus, "little")).public_key()
        key.verify(signature[::-1], data[_SIGNED_HEAD] + data[_SIGNED_BODY], padding.PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError) as error:
        raise MeasurementError(
            "the signature of the SIGSTRUCT does not hold", hint="the file was changed: sign the enclave again"
        ) from error
    return Sigstruct(
        mrenclave=mrenclave,
        mrsigner=hashlib.sha256(modulus).digest(),
        isvprodid=product,
        isvsvn=version,
        attributes=attributes,
        attribute_mask=mask,
        date=f"{date:08x}",
        isvextprodid=extended,
        isvfamilyid=family,
    )


def measure_domain(event_log: bytes, *, mrtd: bytes) -> tuple[str, tuple[bytes, bytes, bytes, bytes]]:
    """Return the measurement of a trust domain that booted as ``event_log`` says, and its four registers.

    ``mrtd``: 48 bytes of a firmware that is known, from its vendor or from a quote that was examined. What the workload
    itself extends into RTMR3 after boot is not in the log.
    """
    if len(mrtd) != _MRTD_BYTES:
        raise UsageError(f"MRTD has {_MRTD_BYTES} bytes, got {len(mrtd)}")
    registers = replay(parse_event_log(event_log))
    return tdx_measurement(mrtd, registers), registers


def measure_guest(
    firmware: Path,
    *,
    processors: int,
    processor: str = "EPYC-Milan",
    kernel: Path | None = None,
    initrd: Path | None = None,
    command_line: str = "",
    guest_features: int = 1,
) -> str:
    """Return the launch digest of an SEV-SNP guest under QEMU, as policies name it.

    ``firmware``: OVMF with SEV metadata. ``processors``: how many virtual ones, each of which is measured. ``kernel``:
    for measured direct boot, with ``initrd`` and ``command_line``. Raise UsageError without the library, or for
    firmware that it cannot read.
    """
    if processor not in PROCESSORS:
        raise UsageError(f"unknown processor {processor[:40]!r}", hint=f"processors are {', '.join(PROCESSORS)}")
    if not 1 <= processors <= _MOST_PROCESSORS:
        raise UsageError(f"a guest has 1 to {_MOST_PROCESSORS} processors, got {processors}")
    if kernel is None and (initrd is not None or command_line):
        raise UsageError("initrd and command line are measured only with a kernel", hint="name the kernel as well")
    try:
        from sevsnpmeasure import guest, vcpu_types
        from sevsnpmeasure.vmm_types import VMMType
    except ImportError as error:
        raise UsageError(
            "launch digests need the library sev-snp-measure", hint="pip install 'strongroom[snp]'"
        ) from error
    try:
        digest: bytes = guest.snp_calc_launch_digest(
            processors,
            vcpu_types.CPU_SIGS[processor],
            str(firmware),
            "" if kernel is None else str(kernel),
            "" if initrd is None else str(initrd),
            command_line,
            guest_features,
            "",
            VMMType.QEMU,
        )
    except (RuntimeError, ValueError, KeyError, AssertionError, OSError) as error:
        raise UsageError(
            f"{firmware} cannot be measured: {str(error)[:120] or type(error).__name__}",
            hint="name an OVMF image built with SEV-SNP metadata (OvmfPkg/AmdSev)",
        ) from error
    return snp_measurement(digest)
