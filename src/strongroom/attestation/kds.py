"""Fetch what AMD says of a chip from its Key Distribution Service, or from a mirror that speaks its API.

Source: AMD, VCEK Certificate and KDS Interface Specification (57230) §4. Nothing is verified here: the certificates
must lead to a compiled-in root, and the list must be that root's (spec/4-release.md §3.13).
"""

from __future__ import annotations

import ssl
import time
from typing import Final

import httpx

from strongroom.attestation.amd_endorsements import ROOTS, format_amd_endorsements, load_certificate
from strongroom.attestation.evidence.snp import SnpReport
from strongroom.attestation.failures import CertificateError
from strongroom.attestation.patient_client import CollateralFetchError, PatientClient, UnknownPlatformError
from strongroom.attestation.snp import generation_of, vcek_path

AMD_KDS: Final = "https://kdsintf.amd.com"
_WITHOUT_CPUID: Final = ("Milan", "Genoa")  # a report of version 2 does not say which of them it is from
_OF_KIND: Final = {"VCEK": "vcek", "VLEK": "vlek"}


class KeyDistributionService(PatientClient):
    """AMD's service or a mirror; arguments are :class:`PatientClient`'s."""

    def fetch(self, report: SnpReport) -> str:
        """Return endorsements in JSON for a report's chip and firmware: its VCEK and the current CRL.

        A VLEK is its cloud's to give: it is taken from beside the report, and only the list is fetched. Raise
        CollateralFetchError if the service does not answer in time, or there is nothing to be had.
        """
        kind = _OF_KIND.get(report.signing_key)
        if kind is None:
            raise CollateralFetchError("the report is not signed: its chip's key is masked")
        beside = dict(report.certificates).get(kind)
        if beside is None and (kind == "vlek" or not any(report.chip_id)):
            raise CollateralFetchError(
                f"the report's {report.signing_key} is not to be had from AMD by what the report says",
                hint="take the certificates from beside the report (configfs-tsm: auxblob), or from the cloud",
            )
        ends = time.monotonic() + self._deadline
        with self._open() as client:
            generation, key = self._find_key(client, report, beside, ends)
            crl, _ = self._get(client, f"{kind}/v1/{generation}/crl", ends)
        return format_amd_endorsements(ssl.DER_cert_to_PEM_cert(key), crl=crl)

    def _find_key(
        self, client: httpx.Client, report: SnpReport, beside: bytes | None, ends: float
    ) -> tuple[str, bytes]:
        """Return the chip's generation and its certificate in DER."""
        said = "" if report.cpuid is None else generation_of(report.cpuid)
        if beside is not None:
            return said or _issuing_generation(beside), beside
        for generation in (said,) if said else _WITHOUT_CPUID:
            try:
                return generation, self._get(client, vcek_path(report, generation), ends)[0]
            except UnknownPlatformError:
                continue
        raise UnknownPlatformError(
            f"{self.url} knows no chip {report.chip_id.hex()[:16]}.. with this firmware",
            hint="is the report genuine? AMD knows every chip that it made",
        )


def _issuing_generation(der: bytes) -> str:
    try:
        issuer = load_certificate(der, where="certificate table").issuer.rfc4514_string()
    except CertificateError as error:
        raise CollateralFetchError("the certificate beside the report cannot be read") from error
    for generation in ROOTS:
        if generation in issuer:
            return generation
    raise CollateralFetchError("the certificate beside the report is of no known processor generation")
