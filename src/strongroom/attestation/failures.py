"""The ways evidence can fall short, one class per step of the appraisal (spec/4-release.md §3).

Each class knows its step, so that an error raised anywhere names the check that failed. Nothing here decides.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from strongroom.errors import EvidenceError


class Step(StrEnum):
    """The checks of an appraisal in the order in which they are made; the first failure is final."""

    FORMAT = "format"
    COLLATERAL = "collateral"
    CERTIFICATES = "certificates"
    QUOTING_ENCLAVE = "quoting-enclave"
    SIGNATURE = "signature"
    TCB = "tcb"
    ATTRIBUTES = "attributes"
    MEASUREMENT = "measurement"
    HARDWARE = "hardware"
    REPORT_DATA = "report-data"


class _FailureError(EvidenceError):
    """An evidence error whose step is its class's."""

    at: ClassVar[Step] = Step.FORMAT

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, step=self.at.value, hint=hint)


class MalformedEvidenceError(_FailureError):
    """Evidence is not the bytes that its format prescribes; ``field`` names where."""

    at = Step.FORMAT

    def __init__(self, *, field: str, got: str, expected: str, hint: str = "") -> None:
        super().__init__(f"{field}: got {got}, expected {expected}", hint=hint)
        self.field = field
        self.got = got
        self.expected = expected


class CollateralError(_FailureError):
    """Collateral is missing, malformed, badly signed, of the wrong shape or for another platform."""

    at = Step.COLLATERAL


class StaleCollateralError(CollateralError):
    """Collateral is outside its window, older than allowed, or older than what was seen before."""


class ClockSetBackError(CollateralError):
    """The time given is earlier than a time this verifier has already seen."""


class CertificateError(_FailureError):
    """The platform's certificate chain does not lead to the trust anchor, or has the wrong shape."""

    at = Step.CERTIFICATES


class RevokedError(CertificateError):
    """A certificate in the platform's or collateral's chain is revoked."""


class QuotingEnclaveError(_FailureError):
    """The quoting enclave is not the vendor's, is too old, or did not vouch for the attestation key."""

    at = Step.QUOTING_ENCLAVE


class QuoteSignatureError(_FailureError):
    """The quote was changed after it was signed."""

    at = Step.SIGNATURE


class TcbError(_FailureError):
    """The platform's firmware is below every accepted level."""

    at = Step.TCB


class AttributesError(_FailureError):
    """The workload runs with attributes that void its protection."""

    at = Step.ATTRIBUTES


class DebugEvidenceError(AttributesError):
    """The workload runs in debug mode: its host can read all of it."""


class MeasurementError(_FailureError):
    """What was loaded is not among the reference values, or its event log does not replay."""

    at = Step.MEASUREMENT


class HardwareError(_FailureError):
    """The machine is not on the hardware allow-list."""

    at = Step.HARDWARE


class ReportDataError(_FailureError):
    """The evidence was made for another role, nonce, channel, key or job."""

    at = Step.REPORT_DATA
