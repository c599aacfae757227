"""Parse the two bodies a quote can carry: an SGX enclave report and a TDX TD report.

Sources: Intel SDM vol. 3D, "REPORT structure", with the KSS fields; Intel TDX DCAP Quoting Library API, appendix A.3
(TD quote body 1.0 and 1.5). Names follow Intel's, in lower case. Nothing here is verified.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.attestation.evidence.layout import FieldReader

TD10_BODY_BYTES = 584
TD15_BODY_BYTES = 648


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
        cpusvn = reader.take(16, field="cpusvn")
        miscselect = reader.take_u32(field="miscselect")
        reserved = reader.take(12, field="reserved1")
        isvextprodid = reader.take(16, field="isvextprodid")
        flags = int.from_bytes(reader.take(8, field="attributes.flags"), "little")
        xfrm = int.from_bytes(reader.take(8, field="attributes.xfrm"), "little")
        mrenclave = reader.take(32, field="mrenclave")
        reserved += reader.take(32, field="reserved2")
        mrsigner = reader.take(32, field="mrsigner")
        reserved += reader.take(32, field="reserved3")
        return cls(
            cpusvn=cpusvn,
            miscselect=miscselect,
            isvextprodid=isvextprodid,
            flags=flags,
            xfrm=xfrm,
            mrenclave=mrenclave,
            mrsigner=mrsigner,
            configid=reader.take(64, field="configid"),
            isvprodid=reader.take_u16(field="isvprodid"),
            isvsvn=reader.take_u16(field="isvsvn"),
            configsvn=reader.take_u16(field="configsvn"),
            reserved=reserved + reader.take(42, field="reserved4"),
            isvfamilyid=reader.take(16, field="isvfamilyid"),
            report_data=reader.take(64, field="report_data"),
        )


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
        extended = body_bytes == TD15_BODY_BYTES
        return cls(
            tee_tcb_svn=reader.take(16, field="tee_tcb_svn"),
            mrseam=reader.take(48, field="mrseam"),
            mrsignerseam=reader.take(48, field="mrsignerseam"),
            seam_attributes=reader.take(8, field="seam_attributes"),
            td_attributes=int.from_bytes(reader.take(8, field="td_attributes"), "little"),
            xfam=int.from_bytes(reader.take(8, field="xfam"), "little"),
            mrtd=reader.take(48, field="mrtd"),
            mrconfigid=reader.take(48, field="mrconfigid"),
            mrowner=reader.take(48, field="mrowner"),
            mrownerconfig=reader.take(48, field="mrownerconfig"),
            rtmrs=(
                reader.take(48, field="rtmr0"),
                reader.take(48, field="rtmr1"),
                reader.take(48, field="rtmr2"),
                reader.take(48, field="rtmr3"),
            ),
            report_data=reader.take(64, field="report_data"),
            tee_tcb_svn2=reader.take(16, field="tee_tcb_svn2") if extended else b"",
            mrservicetd=reader.take(48, field="mrservicetd") if extended else b"",
        )

    @property
    def body_version(self) -> str:
        """Return ``1.0`` or ``1.5``."""
        return "1.5" if self.mrservicetd else "1.0"
