"""Make evidence in an Azure confidential VM: a vTPM quote, the paravisor's report, the hardware's endorsement.

Source: Azure, guest attestation (NV indices 0x01400001 and 0x01400002, IMDS). The guest writes what it is asked into
one index; the paravisor puts it into its runtime data, makes the hardware report anew, and shows it in the other. The
services asked are the host's: what they say is appraised like everything else.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any, Final

import httpx

from strongroom.answers import read_answer
from strongroom.attestation.evidence.azure import HclReport, parse_azure, parse_hcl_report
from strongroom.attestation.tee import TeeDeviceError
from strongroom.attestation.tpm import Tpm
from strongroom.digests import same
from strongroom.errors import EvidenceError

REPORT_INDEX, USER_DATA_INDEX, ATTESTATION_KEY = 0x01400001, 0x01400002, 0x81000003
SERVICES: Final = "http://169.254.169.254"
SECONDS: Final = 20.0
_PAUSE: Final = 0.25
_TD_REPORT: Final = slice(0, 1024)
_ATTEMPTS: Final = 3
_MAX_ANSWER: Final = 64 << 10


class AzureGuest:
    """One guest: its vTPM, and the address of the host's services (another one only in tests)."""

    def __init__(
        self,
        tpm: Tpm,
        *,
        services: str = SERVICES,
        seconds: float = SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tpm = tpm
        self._services = services.rstrip("/")
        self._seconds = seconds
        self._sleep = sleep

    def evidence(self, report_data: bytes) -> bytes:
        """Return evidence in JSON (spec/4 §3.15), bound twice to ``report_data``; raise TeeDeviceError if it is not."""
        try:
            raw, hcl = self._report(report_data)
            body: dict[str, Any] = {"version": 2, "hcl_report": _b64(raw), "tpm_quote": self._quote(report_data)}
            body |= {"vcek": self._ask_vcek()} if hcl.is_snp else {"td_quote": self._ask_quote(hcl.hardware)}
            evidence = json.dumps(body).encode()
            answered = parse_azure(evidence).report_data
        except EvidenceError as error:
            raise TeeDeviceError(f"the vTPM or the paravisor answered something else: {error.message}") from error
        if not same(answered, report_data):
            raise TeeDeviceError("the evidence is over other report data", hint="ask again")
        return evidence

    def _report(self, report_data: bytes) -> tuple[bytes, HclReport]:
        """Return the paravisor's report once it carries ``report_data``, which takes it some seconds."""
        self._tpm.write_index(USER_DATA_INDEX, report_data)
        ends = time.monotonic() + self._seconds
        while True:
            raw = self._tpm.read_index(REPORT_INDEX)
            report = parse_hcl_report(raw)
            if same(report.user_data, report_data):
                return raw, report
            if time.monotonic() >= ends:
                raise TeeDeviceError(
                    f"the paravisor did not take up the report data within {self._seconds:g} s",
                    hint="another process in this guest writes into the same index; let one process attest",
                )
            self._sleep(_PAUSE)

    def _quote(self, nonce: bytes) -> dict[str, Any]:
        """Return the vTPM's statement and the registers it is about; again if one was extended in between."""
        for _ in range(_ATTEMPTS):
            before = self._tpm.read_registers()
            message, signature = self._tpm.quote(ATTESTATION_KEY, nonce)
            if before == self._tpm.read_registers():
                return {
                    "message": message.hex(),
                    "signature": signature.hex(),
                    "pcrs": [register.hex() for register in before],
                }
        raise TeeDeviceError("the registers change faster than they can be quoted", hint="attest after boot has ended")

    def _ask_vcek(self) -> str:
        answer = self._call("GET", "/metadata/THIM/amd/certification", headers={"Metadata": "true"})
        certificate = answer.get("vcekCert")
        if not isinstance(certificate, str):
            raise TeeDeviceError("the host's service gave no VCEK", hint="name it as collateral where it is verified")
        return certificate

    def _ask_quote(self, hardware: bytes) -> str:
        report = base64.urlsafe_b64encode(hardware[_TD_REPORT]).decode().rstrip("=")
        quote = self._call("POST", "/acc/tdquote", json={"report": report}).get("quote")
        if not isinstance(quote, str):
            raise TeeDeviceError("the host's service made no quote of the report")
        return quote

    def _call(self, method: str, path: str, **settings: Any) -> dict[str, Any]:  # noqa: ANN401  httpx's own
        try:
            with httpx.Client(trust_env=False, timeout=self._seconds) as client:
                ends = time.monotonic() + self._seconds
                answer = read_answer(client, method, self._services + path, most=_MAX_ANSWER, ends=ends, **settings)
            if answer.status != httpx.codes.OK:
                raise TeeDeviceError(f"the host's service answered HTTP {answer.status} to {path}")
            body = json.loads(answer.body)
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise TeeDeviceError(f"the host's service at {path} gives no answer: {error}") from error
        if not isinstance(body, dict):
            raise TeeDeviceError(f"the host's service answered {type(body).__name__} to {path}, expected an object")
        return body


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
