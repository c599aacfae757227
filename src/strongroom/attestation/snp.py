"""Verify that an SEV-SNP report is genuine, intact and not of a debug or migratable guest (spec/4-release.md §3.13).

It applies no policy: AMD publishes no TCB levels, so how new firmware must be is the appraisal policy's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from strongroom.attestation.amd_endorsements import (
    AmdEndorsements,
    EndorsedKey,
    verify_endorsements,
    with_fmc,
)
from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.evidence.snp import SnpReport, SnpTcb
from strongroom.attestation.failures import (
    AttributesError,
    CertificateError,
    DebugEvidenceError,
    QuoteSignatureError,
    TcbError,
)
from strongroom.attestation.raw_signature import is_signed

UNRATED: Final = "Unrated"
POLICY_SMT, POLICY_RESERVED_ONE, POLICY_MIGRATE_MA, POLICY_DEBUG = 1 << 16, 1 << 17, 1 << 18, 1 << 19
POLICY_KNOWN: Final = (1 << 26) - 1
PLATFORM_SMT, PLATFORM_ALIAS_CHECKED = 1 << 0, 1 << 5
_CHIP_BYTES_OF_TURIN: Final = 8
_MODELS: Final = (
    ("Milan", 0x19, range(0x10)),
    ("Genoa", 0x19, (*range(0x10, 0x20), *range(0xA0, 0xB0))),
    ("Turin", 0x1A, range(0x12)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpClaims:
    """Everything a verified report and the chip's certificate assert together; the shape of :class:`claims.Claims`.

    ``endorsed`` is the chip's key. ``tcb_status`` is ``Unrated``: only a policy's minimum can rate AMD firmware.
    """

    quote: SnpReport
    endorsed: EndorsedKey
    collateral_digest: str

    @property
    def tcb_status(self) -> str:
        """Return ``Unrated``."""
        return UNRATED

    @property
    def advisories(self) -> tuple[str, ...]:
        """Return none: AMD's bulletins are not part of its certificates."""
        return ()

    @property
    def expires(self) -> datetime:
        """Return when the first certificate or list that was used runs out."""
        return self.endorsed.expires

    @property
    def measurement(self) -> str:
        """Return the canonical text of what was launched."""
        return self.quote.measurement

    @property
    def report_data(self) -> bytes:
        """Return the 64 bytes the guest chose."""
        return self.quote.report_data

    @property
    def hardware_ids(self) -> tuple[str, ...]:
        """Return ``chip:<hex>``, or under a VLEK, which hides the chip, ``csp:<name>``."""
        if self.endorsed.kind == "VLEK":
            return (f"csp:{self.endorsed.csp}",)
        return (f"chip:{self.endorsed.hwid.hex()}",)

    @property
    def tcbs(self) -> dict[str, SnpTcb]:
        """Return the four TCBs of the report by name, decoded for this generation."""
        wide = with_fmc(self.endorsed.generation)
        raw = {
            "reported": self.quote.reported_tcb,
            "committed": self.quote.committed_tcb,
            "launch": self.quote.launch_tcb,
            "current": self.quote.current_tcb,
        }
        return {name: SnpTcb.read(value, with_fmc=wide) for name, value in raw.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the claims as JSON values; bytes in lower-case hex, times in RFC 3339."""
        endorsed = self.endorsed
        return {
            "tee": "snp",
            "quote_version": self.quote.version,
            "measurement": self.measurement,
            "report_data": self.quote.report_data.hex(),
            "body": describe_snp(self.quote),
            "platform": {
                "generation": endorsed.generation,
                "key": endorsed.kind,
                "chip_id": endorsed.hwid.hex(),
                "csp": endorsed.csp,
            },
            "tcb": {"status": UNRATED, "advisories": [], **{name: tcb.to_json() for name, tcb in self.tcbs.items()}},
            "collateral": {
                "digest": self.collateral_digest,
                "expires": f"{self.expires:%FT%TZ}",
                "revocation": "not consulted: the collateral has no CRL"
                if endorsed.crl_number is None
                else f"CRL number {endorsed.crl_number}",
            },
        }


def verify_snp(
    report: SnpReport,
    endorsements: AmdEndorsements,
    *,
    beside: bytes = b"",
    anchor: TrustAnchor,
    now: datetime,
    remember: Callable[[EndorsedKey], None],
) -> SnpClaims:
    """Return the claims of a report whose signature, chip and guest policy hold; raise an EvidenceError otherwise.

    In order: collateral, certificates, signature, TCB (the key was derived for the firmware reported), attributes.
    ``beside`` is a certificate in DER or PEM that came with the report. ``remember`` is called with the verified key
    before the report is judged, and may refuse it.
    """
    offered = [der for _, der in report.certificates] + ([beside] if beside else [])
    endorsed = verify_endorsements(
        endorsements,
        beside=offered,
        anchor=anchor,
        now=now,
        kind=report.signing_key,
        chip=report.chip_id,
        fetch=_where_to_fetch(report),
    )
    remember(endorsed)
    _check_key(report, endorsed)
    _verify_signature(report, endorsed.key)
    reported = SnpTcb.read(report.reported_tcb, with_fmc=with_fmc(endorsed.generation))
    if reported != endorsed.tcb:
        raise TcbError(
            f"the report says firmware {_tcb_text(reported)}, the {endorsed.kind} is for {_tcb_text(endorsed.tcb)}",
            hint="fetch the certificate for the TCB that the report names; each firmware has a key of its own",
        )
    if report.policy & POLICY_DEBUG:
        raise DebugEvidenceError(
            f"Debug mode is allowed by the guest's policy {report.policy:#x}, expected bit 19 clear",
            hint="launch the guest without debug: its host can read all of its memory",
        )
    if report.policy & POLICY_MIGRATE_MA:
        raise AttributesError(
            f"the guest's policy {report.policy:#x} allows a migration agent, expected bit 18 clear",
            hint="launch the guest without a migration agent, which could move it to another machine",
        )
    if not report.policy & POLICY_RESERVED_ONE:
        raise AttributesError(f"the guest's policy {report.policy:#x} is malformed, expected bit 17 set")
    return SnpClaims(quote=report, endorsed=endorsed, collateral_digest=endorsements.digest)


def describe_snp(report: SnpReport) -> dict[str, Any]:
    """Return every field of the report by AMD's names; bytes and bit masks in hex."""
    return {
        "measurement": report.launch_measurement.hex(),
        "host_data": report.host_data.hex(),
        "policy": f"{report.policy:016x}",
        "vmpl": report.vmpl,
        "guest_svn": report.guest_svn,
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "author_key_enabled": report.author_key_enabled,
        "signing_key": report.signing_key,
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "chip_id": report.chip_id.hex(),
        "platform_info": f"{report.platform_info:016x}",
        "cpuid": "" if report.cpuid is None else " ".join(f"{part:02x}" for part in report.cpuid),
        "reported_tcb": report.reported_tcb.hex(),
        "committed_tcb": report.committed_tcb.hex(),
        "launch_tcb": report.launch_tcb.hex(),
        "current_tcb": report.current_tcb.hex(),
        "current_version": ".".join(map(str, report.current_version)),
        "committed_version": ".".join(map(str, report.committed_version)),
        "launch_mitigations": f"{report.launch_mitigations:016x}",
        "current_mitigations": f"{report.current_mitigations:016x}",
        "report_data": report.report_data.hex(),
    }


def vcek_path(report: SnpReport, generation: str) -> str:
    """Return where, at AMD's key distribution service, the VCEK of a report's chip and firmware is (57230 §4.1)."""
    wide = with_fmc(generation)
    tcb = SnpTcb.read(report.reported_tcb, with_fmc=wide)
    numbers = [("blSPL", tcb.bootloader), ("teeSPL", tcb.tee), ("snpSPL", tcb.snp), ("ucodeSPL", tcb.microcode)]
    query = "&".join(f"{name}={number:02d}" for name, number in ([("fmcSPL", tcb.fmc)] if wide else []) + numbers)
    chip = report.chip_id[:_CHIP_BYTES_OF_TURIN] if wide else report.chip_id
    return f"vcek/v1/{generation}/{chip.hex()}?{query}"


def generation_of(cpuid: tuple[int, int, int]) -> str:
    """Return the processor generation of family, model and stepping; empty for one that is not known."""
    family, model, _ = cpuid
    return next((name for name, of, models in _MODELS if family == of and model in models), "")


def _where_to_fetch(report: SnpReport) -> str:
    """Return where the certificate of the key that signed a report is to be had, as far as the report says."""
    if report.signing_key == "VLEK":
        return (
            "ask the cloud for the VLEK of this machine: with the report (configfs-tsm: auxblob) or from its metadata"
        )
    if not any(report.chip_id):
        return "the report hides its chip (MASK_CHIP_ID): take the VCEK from beside the report (configfs-tsm: auxblob)"
    generation = "" if report.cpuid is None else generation_of(report.cpuid)
    doubt = "" if generation else "; if that is a Genoa, write Genoa for Milan: this report does not say which"
    return f"fetch https://kdsintf.amd.com/{vcek_path(report, generation or 'Milan')}{doubt}"


def _check_key(report: SnpReport, endorsed: EndorsedKey) -> None:
    """Check that the certificate is for the key and the chip that the report names."""
    if report.mask_chip_key or report.signing_key == "none" or report.signature == (0, 0):
        raise QuoteSignatureError(
            "the report is not signed: its chip's key is masked",
            hint="the host set MASK_CHIP_KEY; ask the operator to clear it",
        )
    if report.signing_key != endorsed.kind:
        raise CertificateError(
            f"the report is signed by a {report.signing_key}, the certificate is a {endorsed.kind}",
            hint=f"give the {report.signing_key} of this machine as collateral",
        )
    if report.cpuid is not None and generation_of(report.cpuid) != endorsed.generation:
        family, model, stepping = report.cpuid
        raise CertificateError(
            f"the report is of processor family {family:#x} model {model:#x} stepping {stepping:#x} "
            f"({generation_of(report.cpuid) or 'unknown'}), the certificate is for {endorsed.generation}"
        )
    chip = report.chip_id[:_CHIP_BYTES_OF_TURIN] if len(endorsed.hwid) == _CHIP_BYTES_OF_TURIN else report.chip_id
    if endorsed.kind == "VCEK" and any(report.chip_id) and chip != endorsed.hwid:
        raise CertificateError(
            f"the report is of chip {chip.hex()[:16]}.., the VCEK is for {endorsed.hwid.hex()[:16]}..",
            hint="fetch the VCEK of the chip that made the report",
        )


def _verify_signature(report: SnpReport, key: ec.EllipticCurvePublicKey) -> None:
    if not is_signed(report.signed, report.signature, key, SHA384()):
        raise QuoteSignatureError(
            "the chip's key did not sign this report",
            hint="the report was changed after it was signed, or the certificate is another chip's or firmware's",
        )


def _tcb_text(tcb: SnpTcb) -> str:
    fmc = f" fmc {tcb.fmc}" if tcb.fmc else ""
    return f"boot loader {tcb.bootloader} TEE {tcb.tee} SNP {tcb.snp} microcode {tcb.microcode}{fmc}"
