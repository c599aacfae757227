"""Fetch collateral from Intel's Provisioning Certification Service, or any PCCS that speaks its API, version 4.

Nothing is verified here: what a service says is appraised like anything else (spec/4-release.md §3.2).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import httpx

from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.patient_client import CollateralFetchError, PatientClient
from strongroom.errors import UsageError

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
_INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_DER_SEQUENCE: Final = 0x30
_PRODUCT: Final = {"sgx": "sgx", "tdx": "tdx"}

UpdateSet = Literal["standard", "early"]


class CollateralService(PatientClient):
    """One service: Intel's, or a PCCS in the operator's network.

    ``update``: the ``standard`` set, or the ``early`` one that Intel publishes months before it becomes standard. The
    other arguments are :class:`PatientClient`'s.
    """

    def __init__(
        self,
        url: str,
        *,
        update: UpdateSet = "standard",
        proxy: str = "",
        deadline: timedelta = timedelta(seconds=30),
        attempts: int = 4,
        per_second: float = 10.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(url, proxy=proxy, deadline=deadline, attempts=attempts, per_second=per_second, sleep=sleep)
        if update not in ("standard", "early"):
            raise UsageError(f"the update set is standard or early, got {update!r}")
        self.update = update

    def fetch(self, *, tee: TeeName, fmspc: str, ca: str) -> str:
        """Return QuoteCollateralV3 JSON for a platform model (12 hex digits) under ``ca`` (platform or processor).

        Raise CollateralFetchError if the service does not answer in time, or answers with something else.
        """
        if tee not in _PRODUCT:
            raise UsageError(f"Intel's service has no collateral for {tee}")
        ends = time.monotonic() + self._deadline
        product, update = _PRODUCT[tee], f"update={self.update}"
        with self._open() as client:
            crl, crl_headers = self._get(client, f"sgx/certification/v4/pckcrl?ca={ca}&encoding=der", ends)
            root_crl, _ = self._get(client, self._root_crl(), ends)
            info, info_headers = self._get(client, f"{product}/certification/v4/tcb?fmspc={fmspc}&{update}", ends)
            identity, identity_headers = self._get(client, f"{product}/certification/v4/qe/identity?{update}", ends)
        info_text, info_signature = split_answer(info, "tcbInfo")
        identity_text, identity_signature = split_answer(identity, "enclaveIdentity")
        return json.dumps(
            {
                "pck_crl_issuer_chain": _chain(crl_headers, "SGX-PCK-CRL-Issuer-Chain"),
                "root_ca_crl": _der(root_crl).hex(),
                "pck_crl": _der(crl).hex(),
                "tcb_info_issuer_chain": _chain(info_headers, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
                "tcb_info": info_text,
                "tcb_info_signature": info_signature,
                "qe_identity_issuer_chain": _chain(identity_headers, "SGX-Enclave-Identity-Issuer-Chain"),
                "qe_identity": identity_text,
                "qe_identity_signature": identity_signature,
            }
        )

    def look(self) -> datetime | None:
        """Return the service's own time, which it need not tell, if it answers; raise CollateralFetchError if not."""
        ends = time.monotonic() + self._deadline
        with self._open() as client:
            _, headers = self._get(client, self._root_crl(), ends)
        try:
            return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError):
            return None

    def _root_crl(self) -> str:
        """Return where the root's CRL is: Intel serves it from another host, a PCCS under its own address."""
        intel = urlsplit(self.url).hostname == urlsplit(INTEL_PCS).hostname
        return _INTEL_ROOT_CRL if intel else "sgx/certification/v4/rootcacrl"


def split_answer(body: bytes, member: str) -> tuple[str, str]:
    """Return the signed document exactly as it stands in the answer, and its signature."""
    try:
        text = body.decode()
        answer = json.loads(text)
        signature: str = answer["signature"]
        bytes.fromhex(signature)
        key = text.index(f'"{member}"')
        start = text.index(":", key) + 1
        start += len(text[start:]) - len(text[start:].lstrip())
        _, end = json.JSONDecoder().raw_decode(text, start)
        dict(answer[member])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CollateralFetchError(
            f"the answer holds no signed {member}", hint="is this a collateral service of API version 4?"
        ) from error
    return text[start:end], signature


def _chain(headers: httpx.Headers, *names: str) -> str:
    for name in names:
        if name in headers:
            return unquote(headers[name])
    raise CollateralFetchError(
        f"the answer has no header {names[0]}", hint="is this a collateral service of API version 4?"
    )


def _der(body: bytes) -> bytes:
    """Return a CRL in DER, which some services send as hexadecimal text."""
    if body[:1] == bytes([_DER_SEQUENCE]):
        return body
    try:
        return bytes.fromhex(body.decode().strip())
    except ValueError as error:
        raise CollateralFetchError("the answer is neither a CRL in DER nor in hexadecimal text") from error
