"""Verify an Azure confidential VM's evidence: hardware, both bindings, and the vTPM's quote (spec §3.15).

The chain of trust: the hardware vouches for the paravisor and, by REPORTDATA, for the runtime data; the runtime data
names the vTPM's key; that key signs nonce and registers. It applies no policy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from strongroom.attestation.claims import Claims
from strongroom.attestation.evidence.azure import AzureEvidence, azure_measurement
from strongroom.attestation.failures import MeasurementError, QuoteSignatureError
from strongroom.attestation.snp import SnpClaims
from strongroom.digests import same

_LEAST_KEY_BITS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureClaims:
    """What hardware and vTPM assert together; ``hardware`` are the claims about the machine below the paravisor."""

    quote: AzureEvidence
    hardware: Claims | SnpClaims

    @property
    def tcb_status(self) -> str:
        """Return the status of the hardware."""
        return self.hardware.tcb_status

    @property
    def advisories(self) -> tuple[str, ...]:
        """Return the hardware's."""
        return self.hardware.advisories

    @property
    def expires(self) -> datetime:
        """Return when the hardware's collateral runs out."""
        return self.hardware.expires

    @property
    def measurement(self) -> str:
        """Return the canonical text of paravisor and boot registers."""
        return azure_measurement(self.quote.tee, self.hardware.measurement, self.quote.tpm.pcrs)

    @property
    def hardware_ids(self) -> tuple[str, ...]:
        """Return the hardware's."""
        return self.hardware.hardware_ids

    @property
    def collateral_digest(self) -> str:
        """Return the hardware's."""
        return self.hardware.collateral_digest

    def to_json(self) -> dict[str, Any]:
        """Return the claims as JSON values; those of the hardware under ``hardware``."""
        inner = self.hardware.to_json()
        return {
            "tee": self.quote.tee,
            "quote_version": inner["quote_version"],
            "measurement": self.measurement,
            "report_data": self.quote.report_data.hex(),
            "body": describe_azure(self.quote),
            "platform": inner["platform"],
            "tcb": inner["tcb"],
            "collateral": inner["collateral"],
            "hardware": inner,
        }


def describe_azure(evidence: AzureEvidence) -> dict[str, Any]:
    """Return the registers and what was bound; bytes in hex."""
    return {
        **{f"pcr{number}": value.hex() for number, value in enumerate(evidence.tpm.pcrs)},
        "nonce": evidence.tpm.nonce.hex(),
        "user_data": evidence.hcl.user_data.hex(),
        "both_bindings": bool(evidence.report_data),
    }


def verify_vtpm(evidence: AzureEvidence, hardware: Claims | SnpClaims) -> AzureClaims:
    """Return the claims if the verified hardware vouches for the vTPM's key, and that key for the registers.

    Raise QuoteSignatureError or MeasurementError.
    """
    if not same(hardware.quote.report_data, evidence.hcl.commitment):
        raise QuoteSignatureError(
            "the hardware's REPORTDATA is not the digest of the runtime data",
            hint="the paravisor's report was changed, or put together from two",
        )
    modulus, exponent = evidence.hcl.key
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if key.key_size < _LEAST_KEY_BITS:
            raise QuoteSignatureError(f"the vTPM's key has {key.key_size} bits, at least {_LEAST_KEY_BITS} expected")
        key.verify(evidence.tpm.signature, evidence.tpm.message, padding.PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError) as error:
        raise QuoteSignatureError(
            "the vTPM's key did not sign this quote", hint="the quote was changed, or is another machine's"
        ) from error
    if not same(hashlib.sha256(b"".join(evidence.tpm.pcrs)).digest(), evidence.tpm.pcr_digest):
        raise MeasurementError("the registers listed are not those the vTPM signed", hint="the list was changed")
    return AzureClaims(quote=evidence, hardware=hardware)
