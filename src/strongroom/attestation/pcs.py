"""Fetch collateral from Intel's Provisioning Certification Service, or any PCCS that speaks its API, version 4.

Every fetch has one deadline over all its requests, retries and waits; requests are spaced; answers are bounded.
Nothing is verified here: what a service says is appraised like anything else (spec/4-release.md §3.2).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import httpx

from strongroom.answers import TooLongAnswerError, read_answer
from strongroom.attestation.evidence.carriage import TeeName
from strongroom.errors import TransportError, UsageError

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
_INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_MAX_ANSWER: Final = 1 << 20
_HTTP_OK, _TOO_MANY, _SERVER_ERROR, _NOT_FOUND = 200, 429, 500, 404
_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_BURST: Final = 4  # the requests of one fetch may follow each other at once
_DER_SEQUENCE: Final = 0x30
_PRODUCT: Final = {"sgx": "sgx", "tdx": "tdx"}

UpdateSet = Literal["standard", "early"]


class CollateralFetchError(TransportError):
    """The collateral service cannot be reached, is too slow, or has nothing for this platform."""


class CollateralService:
    """One service: Intel's, or a PCCS in the operator's network.

    ``update``: the ``standard`` set, or the ``early`` one that Intel publishes months before it becomes standard.
    ``proxy``: the URL of an HTTP proxy; empty for none (the environment is not read). ``per_second``: requests at most,
    beyond a first four. ``attempts``: tries per request when the service is busy or unreachable. ``deadline``: for a
    whole fetch.
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
        if not url.startswith(("https://", "http://localhost:", "http://127.0.0.1:")):
            raise UsageError(
                f"not the address of a collateral service: {url[:80]!r}",
                hint="use https://, or http:// on this machine",
            )
        if update not in ("standard", "early"):
            raise UsageError(f"the update set is standard or early, got {update!r}")
        self.url = url.rstrip("/")
        self.update = update
        self._proxy = proxy or None
        self._deadline = deadline.total_seconds()
        self._attempts = attempts
        self._interval = 1.0 / per_second
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def fetch(self, *, tee: TeeName, fmspc: str, ca: str) -> str:
        """Return QuoteCollateralV3 JSON for a platform model (12 hex digits) under ``ca`` (platform or processor).

        Raise CollateralFetchError if the service does not answer in time, or answers with something else.
        """
        if tee not in _PRODUCT:
            raise UsageError(f"Intel's service has no collateral for {tee}")
        ends = time.monotonic() + self._deadline
        product, update = _PRODUCT[tee], f"update={self.update}"
        with httpx.Client(proxy=self._proxy, trust_env=False, follow_redirects=False) as client:
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
        with httpx.Client(proxy=self._proxy, trust_env=False, follow_redirects=False) as client:
            _, headers = self._get(client, self._root_crl(), ends)
        try:
            return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError):
            return None

    def _root_crl(self) -> str:
        """Return where the root's CRL is: Intel serves it from another host, a PCCS under its own address."""
        intel = urlsplit(self.url).hostname == urlsplit(INTEL_PCS).hostname
        return _INTEL_ROOT_CRL if intel else "sgx/certification/v4/rootcacrl"

    def _get(self, client: httpx.Client, path: str, ends: float) -> tuple[bytes, httpx.Headers]:
        url = path if path.startswith("https://") else f"{self.url}/{path}"
        backoff, reason = _PAUSE, "no attempt was made"
        for attempt in range(1, self._attempts + 1):
            self._take_turn(ends)
            pause = backoff
            try:
                status, headers, body = _read(client, url, ends)
            except httpx.HTTPError as error:
                reason = str(error)[:160] or type(error).__name__
            else:
                if status == _HTTP_OK:
                    return body, headers
                reason = f"HTTP {status}"
                if status != _TOO_MANY and status < _SERVER_ERROR:
                    hint = "the service does not know this platform" if status == _NOT_FOUND else "check the address"
                    raise CollateralFetchError(f"{url} answered {reason}", hint=hint)
                pause = _retry_after(headers, backoff)
            if attempt == self._attempts or time.monotonic() + pause >= ends:
                break
            self._sleep(pause)
            backoff = min(2 * backoff, _LONGEST_PAUSE)
        raise CollateralFetchError(
            f"{self.url} gave no collateral: {reason} ({url.removeprefix(self.url)})",
            hint="is the service up? Collateral can also be imported: strongroom attest collateral import",
        )

    def _take_turn(self, ends: float) -> None:
        """Wait until this client may ask again, whatever thread asked last."""
        with self._lock:
            now = time.monotonic()
            due = max(now, self._next)
            self._next = due + self._interval
            turn = due - (_BURST - 1) * self._interval
        if turn >= ends:
            raise CollateralFetchError(f"{self.url} would be asked too often", hint="raise the deadline or the rate")
        if turn > now:
            self._sleep(turn - now)


def _read(client: httpx.Client, url: str, ends: float) -> tuple[int, httpx.Headers, bytes]:
    """Return one answer, bounded in size and in time however slowly it drips."""
    left = ends - time.monotonic()
    if left <= 0:
        raise httpx.ReadTimeout("the deadline passed")
    try:
        answer = read_answer(client, "GET", url, most=_MAX_ANSWER, ends=ends, timeout=left)
    except TooLongAnswerError as error:
        raise CollateralFetchError(f"{url} answered with more than {_MAX_ANSWER} bytes") from error
    return answer.status, answer.headers, answer.body


def _retry_after(headers: httpx.Headers, otherwise: float) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), _LONGEST_PAUSE) if value.isdecimal() else otherwise


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
