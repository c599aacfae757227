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
    """An evidence error whose step is its class's, and so is what to do where its raiser knows nothing better."""

    at: ClassVar[Step] = Step.FORMAT
    remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, step=self.at.value, hint=hint or self.remedy)


class MalformedEvidenceError(_FailureError):
    """Evidence is not the bytes that its format prescribes; ``field`` names where."""

    at = Step.FORMAT
    remedy = "ask the attester for fresh evidence; if it looks the same, it is damaged or of a kind not read here"

    def __init__(self, *, field: str, got: str, expected: str, hint: str = "") -> None:
        super().__init__(f"{field}: got {got}, expected {expected}", hint=hint)
        self.field = field
        self.got = got
        self.expected = expected


class CollateralError(_FailureError):
    """Collateral is missing, malformed, badly signed, of the wrong shape or for another platform."""

    at = Step.COLLATERAL
    remedy = "fetch the collateral of this platform again, from the vendor"


class StaleCollateralError(CollateralError):
    """Collateral is outside its window, older than allowed, or older than what was seen before."""


class ClockSetBackError(CollateralError):
    """The time given is earlier than a time this verifier has already seen."""

    remedy = "set this machine's clock right"


class CertificateError(_FailureError):
    """The platform's certificate chain does not lead to the trust anchor, or has the wrong shape."""

    at = Step.CERTIFICATES
    remedy = "the certificates must lead from the platform to the trust anchor; take them from the vendor"


class RevokedError(CertificateError):
    """A certificate in the platform's or collateral's chain is revoked."""


class QuotingEnclaveError(_FailureError):
    """The quoting enclave is not the vendor's, is too old, or did not vouch for the attestation key."""

    at = Step.QUOTING_ENCLAVE
    remedy = "update the platform's DCAP packages, which bring the quoting enclave"


class QuoteSignatureError(_FailureError):
    """The quote was changed after it was signed."""

    at = Step.SIGNATURE
    remedy = "ask the attester for fresh evidence; this was changed after it was signed"


class TcbError(_FailureError):
    """The platform's firmware is below every accepted level."""

    at = Step.TCB
    remedy = "update the platform's firmware, or say in the policy what is accepted"


class AttributesError(_FailureError):
    """The workload runs with attributes that void its protection."""

    at = Step.ATTRIBUTES
    remedy = "start the workload without the feature, or say in the policy that it is accepted"


class DebugEvidenceError(AttributesError):
    """The workload runs in debug mode: its host can read all of it."""


class MeasurementError(_FailureError):
    """What was loaded is not among the reference values, or its event log does not replay."""

    at = Step.MEASUREMENT
    remedy = "compare what was loaded with the reference values: `strongroom measure`"


class HardwareError(_FailureError):
    """The machine is not on the hardware allow-list."""

    at = Step.HARDWARE
    remedy = "add the machine to the allow-list if it is yours"


class ReportDataError(_FailureError):
    """The evidence was made for another role, nonce, channel, key or job."""

    at = Step.REPORT_DATA
    remedy = "ask for fresh evidence in this session"
