"""State what a verified quote says of its workload and its platform (spec/4-release.md §3.4).

Claims exist only for quotes whose signatures were verified; they say what is, not whether it is good enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from strongroom.attestation.evidence.pck import PckExtension
from strongroom.attestation.evidence.quote import Quote, SgxQuote


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Everything the quote, its platform's certificate and the collateral assert together.

    ``tcb_date``, ``qe_tcb_date``: when the level of the platform, and of its quoting enclave, was current.
    ``collateral_issued``: of the oldest of TCB info and QE
    identity. ``expires``: when the first document of the collateral does. ``remedy``: which components are behind.
    """

    quote: Quote
    platform: PckExtension
    tcb_status: str
    advisories: tuple[str, ...]
    tcb_date: datetime
    qe_status: str
    qe_tcb_date: datetime
    evaluation_number: int
    collateral_digest: str
    collateral_issued: datetime
    expires: datetime
    remedy: str

    @property
    def measurement(self) -> str:
        """Return the canonical text of what was loaded."""
        return self.quote.measurement

    @property
    def hardware_ids(self) -> tuple[str, ...]:
        """Return the names for an allow-list: ``ppid:<hex>`` and, on platforms that have one, ``instance:<hex>``."""
        names = [f"ppid:{self.platform.ppid.hex()}"]
        if self.platform.platform_instance_id:
            names.append(f"instance:{self.platform.platform_instance_id.hex()}")
        return tuple(names)

    def to_json(self) -> dict[str, Any]:
        """Return the claims as JSON values; bytes in lower-case hex, times in RFC 3339."""
        return {
            "tee": self.quote.tee,
            "quote_version": self.quote.header.version,
            "measurement": self.measurement,
            "report_data": self.quote.report_data.hex(),
            "body": describe_body(self.quote),
            "platform": {
                "fmspc": self.platform.fmspc.hex().upper(),
                "pceid": self.platform.pceid.hex(),
                "ppid": self.platform.ppid.hex(),
                "platform_instance_id": self.platform.platform_instance_id.hex(),
                "sgx_type": self.platform.sgx_type,
                "cpusvn": self.platform.cpusvn.hex(),
                "pcesvn": self.platform.pcesvn,
                "dynamic_platform": self.platform.dynamic_platform,
                "cached_keys": self.platform.cached_keys,
                "smt": self.platform.smt,
            },
            "tcb": {
                "status": self.tcb_status,
                "advisories": list(self.advisories),
                "date": f"{self.tcb_date:%FT%TZ}",
                "qe_status": self.qe_status,
                "qe_date": f"{self.qe_tcb_date:%FT%TZ}",
                "evaluation_number": self.evaluation_number,
                "remedy": self.remedy,
            },
            "collateral": {"digest": self.collateral_digest, "expires": f"{self.expires:%FT%TZ}"},
        }


def describe_body(quote: Quote) -> dict[str, Any]:
    """Return every field of the quote's body by Intel's names; bytes and bit masks in hex, most significant first."""
    report = quote.report
    if isinstance(quote, SgxQuote):
        enclave = quote.report
        return {
            "mrenclave": enclave.mrenclave.hex(),
            "mrsigner": enclave.mrsigner.hex(),
            "isvprodid": enclave.isvprodid,
            "isvsvn": enclave.isvsvn,
            "attributes": f"{enclave.flags:016x}",
            "xfrm": f"{enclave.xfrm:016x}",
            "miscselect": f"{enclave.miscselect:08x}",
            "cpusvn": enclave.cpusvn.hex(),
            "configid": enclave.configid.hex(),
            "configsvn": enclave.configsvn,
            "isvextprodid": enclave.isvextprodid.hex(),
            "isvfamilyid": enclave.isvfamilyid.hex(),
            "report_data": report.report_data.hex(),
        }
    domain = quote.report
    body: dict[str, Any] = {
        "version": domain.body_version,
        "mrtd": domain.mrtd.hex(),
        **{f"rtmr{index}": rtmr.hex() for index, rtmr in enumerate(domain.rtmrs)},
        "mrconfigid": domain.mrconfigid.hex(),
        "mrowner": domain.mrowner.hex(),
        "mrownerconfig": domain.mrownerconfig.hex(),
        "td_attributes": f"{domain.td_attributes:016x}",
        "xfam": f"{domain.xfam:016x}",
        "mrseam": domain.mrseam.hex(),
        "mrsignerseam": domain.mrsignerseam.hex(),
        "seam_attributes": domain.seam_attributes.hex(),
        "tee_tcb_svn": domain.tee_tcb_svn.hex(),
        "report_data": report.report_data.hex(),
    }
    if domain.mrservicetd:
        body |= {"tee_tcb_svn2": domain.tee_tcb_svn2.hex(), "mrservicetd": domain.mrservicetd.hex()}
    return body
