"""Answer for one simulated workload what hardware would answer: quotes, sealing keys, counters.

It runs on the platform's side of the socket. What the workload measures to was fixed before the workload ran; nothing
the workload asks can change it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from strongroom.attestation.simulated.counters import Counters
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.measuring import ENTRY, Measured
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import (
    REPORT_DATA_BYTES,
    SgxFacts,
    TdxFacts,
    quote_sgx,
    quote_tdx,
)
from strongroom.errors import StrongroomError, UsageError

_ROLE_PRODUCT = {role: number for number, role in enumerate(sorted(ENTRY), start=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """One started workload as the platform sees it; ``job`` is the 48-byte job digest or empty."""

    vendor: Vendor
    tee: str
    measured: Measured
    job: bytes
    faults: Faults
    counters: Counters
    collateral: Callable[[], str]
    quote_version: int = 4

    @property
    def measurement(self) -> str:
        """Return the canonical text of the measurement."""
        return self.measured.text(self.tee)

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over 64 bytes of report data."""
        signer = self.vendor.impostor() if self.faults.wrong_root else self.vendor
        if self.tee == "sgx":
            enclave = SgxFacts(
                mr_enclave=self.measured.mr_enclave,
                mr_signer=self.vendor.derive("workload-mrsigner"),
                config_id=self.job,
                product=_ROLE_PRODUCT[self.measured.role],
            )
            return quote_sgx(signer, enclave, report_data=report_data, faults=self.faults)
        domain = TdxFacts(mr_td=self.measured.mr_td, rtmrs=self.measured.rtmrs, mr_config_id=self.job)
        return quote_tdx(signer, domain, report_data=report_data, version=self.quote_version, faults=self.faults)

    def sealing_key(self, label: str) -> bytes:
        """Return 32 bytes that only this measurement on this platform gets for ``label``."""
        return self.vendor.derive(f"sealing/{self.measurement}/{label}")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request of the workload, or ``{"error": ..., "hint": ...}``."""
        try:
            return self._answer(request)
        except StrongroomError as error:
            return {"error": error.message, "hint": error.hint}
        except (KeyError, TypeError, ValueError, binascii.Error):
            return {"error": f"malformed request {str(request.get('call'))[:40]!r}", "hint": ""}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["call"]:
            case "identity":
                root = base64.b64encode(self.vendor.root_der).decode()
                return {"tee": self.tee, "measurement": self.measurement, "root": root}
            case "quote":
                report_data = base64.b64decode(request["report_data"], validate=True)
                if len(report_data) != REPORT_DATA_BYTES:
                    raise UsageError(f"report data has {REPORT_DATA_BYTES} bytes, got {len(report_data)}")
                return {"quote": base64.b64encode(self.quote(report_data)).decode()}
            case "collateral":
                return {"collateral": self.collateral()}
            case "sealing_key" | "counter_read" | "counter_advance" if self.tee != "sgx":
                raise UsageError(f"a simulated {self.tee.upper()} has neither sealing keys nor counters")
            case "sealing_key":
                return {"key": base64.b64encode(self.sealing_key(str(request["label"]))).decode()}
            case "counter_read":
                return {"value": self.counters.read(self.measurement, str(request["name"]))}
            case "counter_advance":
                self.counters.advance_to(self.measurement, str(request["name"]), int(request["value"]))
                return {}
            case _:
                raise UsageError(f"the simulated TEE has no call {str(request['call'])[:40]!r}")
