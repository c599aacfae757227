"""Translate what dcap-qvl says when it refuses into the step that failed and what to do (spec/4-release.md §3).

The library has one exception with a text. An unknown text becomes a signature failure: a translation can be vague, but
never turn a refusal into anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from strongroom.attestation.failures import (
    AttributesError,
    CertificateError,
    CollateralError,
    DebugEvidenceError,
    QuoteSignatureError,
    QuotingEnclaveError,
    RevokedError,
    StaleCollateralError,
    TcbError,
)

Failure = type[
    AttributesError | CertificateError | CollateralError | QuoteSignatureError | QuotingEnclaveError | TcbError
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    said: str
    failure: Failure
    hint: str


# The first pattern that matches wins, so narrow ones stand before wide ones.
_CAUSES = (
    _Cause(
        said=r"CertRevoked|is revoked",
        failure=RevokedError,
        hint="the vendor withdrew this certificate, of the platform or of its authority; never accept it",
    ),
    _Cause(
        said=r"issue date is in the future|CertNotValidYet|not valid yet",
        failure=StaleCollateralError,
        hint="check this machine's clock",
    ),
    _Cause(
        said=r"[Ee]xpired",
        failure=StaleCollateralError,
        hint="fetch current collateral for this platform, or check the clock",
    ),
    _Cause(
        said=r"TCB ?Info|tcb_info|TcbInfo|QE ?Identity|qe_identity|CRL|Crl|component count|tdxModule|RevocationStatus",
        failure=CollateralError,
        hint="fetch the collateral of this platform again, from the vendor",
    ),
    _Cause(
        said=r"hash mismatch",
        failure=QuotingEnclaveError,
        hint="the quoting enclave did not vouch for the key that signed this quote",
    ),
    _Cause(
        said=r"qe_report|QE report|QE auth|QE ",
        failure=QuotingEnclaveError,
        hint="the quoting enclave must be the vendor's, unchanged and current: update the platform's DCAP packages",
    ),
    _Cause(
        said=r"Debug mode",
        failure=DebugEvidenceError,
        hint="build and start the workload without debug: its host can read all of its memory",
    ),
    _Cause(
        said=r"SEPT_VE_DISABLE",
        failure=AttributesError,
        hint="start the trust domain with sept-ve-disable=on: without it the host can inject page faults",
    ),
    _Cause(
        said=r"MR service TD",
        failure=AttributesError,
        hint="a service TD is bound to this trust domain and could migrate it; start it without one",
    ),
    _Cause(
        said=r"TD migration",
        failure=AttributesError,
        hint="start the trust domain without MIGRATABLE: its host could move it to another machine",
    ),
    _Cause(
        said=r"TD profiling",
        failure=AttributesError,
        hint="start the trust domain without profiling (ICSSD, PERF_PROF, PROF): its host could watch what it does",
    ),
    _Cause(
        said=r"Reserved bits",
        failure=AttributesError,
        hint="the trust domain has attributes that are not known to be safe",
    ),
    _Cause(
        said=r"TEE_TCB_SVN2|current TDX TCB",
        failure=TcbError,
        hint="the TDX module that runs now is older than any level the collateral knows: update it",
    ),
    _Cause(
        said=r"TDX module identity",
        failure=TcbError,
        hint="the TDX module's signer, attributes or version are not the vendor's; load Intel's own module",
    ),
    _Cause(
        said=r"TCB level|TDX module|TCB status|[Ff]mspc",
        failure=TcbError,
        hint="update the platform's firmware and the TDX module",
    ),
    _Cause(
        said=r"PCK|Intel extension|[Cc]ertificate|Issuer|InvalidSignature|root ca|CaUsedAs|PathLen",
        failure=CertificateError,
        hint="the platform's chain must lead to the trust anchor",
    ),
)
_UNKNOWN = _Cause(
    said="",
    failure=QuoteSignatureError,
    hint="the quote was changed after it was signed, or put together from two",
)


def name_cause(message: str) -> tuple[str, Failure, str]:
    """Return what dcap-qvl said (without its prefix), the class of error it is, and the remedy."""
    said = message.removeprefix("Verification failed: ")
    cause = next((cause for cause in _CAUSES if re.search(cause.said, said)), _UNKNOWN)
    return said, cause.failure, cause.hint
