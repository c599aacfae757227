"""Parse the two bodies a quote can carry: an SGX enclave report and a TDX TD report.

Sources: Intel SDM vol. 3D, "REPORT structure", with the KSS fields; Intel TDX DCAP Quoting Library API, appendix A.3
(TD quote body 1.0 and 1.5). Names follow Intel's, in lower case. Nothing here is verified.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.attestation.evidence.layout import FieldReader, Layout

TD10_BODY_BYTES = 584
TD15_BODY_BYTES = 648
_ENCLAVE = Layout(
    cpusvn="16s",
    miscselect="I",
    reserved1="12s",
    isvextprodid="16s",
    flags="Q",
    xfrm="Q",
    mrenclave="32s",
    reserved2="32s",
    mrsigner="32s",
    reserved3="32s",
    configid="64s",
    isvprodid="H",
    isvsvn="H",
    configsvn="H",
    reserved4="42s",
    isvfamilyid="16s",
    report_data="64s",
)
_TD = Layout(
    tee_tcb_svn="16s",
    mrseam="48s",
    mrsignerseam="48s",
    seam_attributes="8s",
    td_attributes="Q",
    xfam="Q",
    mrtd="48s",
    mrconfigid="48s",
    mrowner="48s",
    mrownerconfig="48s",
    rtmr0="48s",
    rtmr1="48s",
    rtmr2="48s",
    rtmr3="48s",
    report_data="64s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """An SGX report body of 384 bytes; integers little endian, digests as they stand."""

    cpusvn: bytes
    miscselect: int
    isvextprodid: bytes
    flags: int
    xfrm: int
    mrenclave: bytes
    mrsigner: bytes
    configid: bytes
    isvprodid: int
    isvsvn: int
    configsvn: int
    isvfamilyid: bytes
    report_data: bytes
    reserved: bytes

    @classmethod
    def read(cls, reader: FieldReader) -> EnclaveReport:
        """Return the report at the reader's place; ``reserved`` gathers the four reserved fields in order."""
        found = reader.take_all(_ENCLAVE)
        reserved = b"".join([found.pop(f"reserved{number}") for number in (1, 2, 3, 4)])
        return cls(**found, reserved=reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """A TD report body; ``tee_tcb_svn2`` and ``mrservicetd`` are empty in a TD 1.0 body, which has neither field."""

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes
    mrservicetd: bytes

    @classmethod
    def read(cls, reader: FieldReader, *, body_bytes: int) -> TdReport:
        """Return the report at the reader's place; ``body_bytes`` is 584 (TD 1.0) or 648 (TD 1.5)."""
        found = reader.take_all(_TD)
        rtmrs = (found.pop("rtmr0"), found.pop("rtmr1"), found.pop("rtmr2"), found.pop("rtmr3"))
        extended = body_bytes == TD15_BODY_BYTES
        return cls(
            **found,
            rtmrs=rtmrs,
            tee_tcb_svn2=reader.take(16, field="tee_tcb_svn2") if extended else b"",
            mrservicetd=reader.take(48, field="mrservicetd") if extended else b"",
        )

    @property
    def body_version(self) -> str:
        """Return ``1.0`` or ``1.5``."""
        return "1.5" if self.mrservicetd else "1.0"
