"""Ask a vendor's service patiently: one deadline over all of a fetch, retries, spaced requests, bounded answers.

Nothing is verified here: what a service says is appraised like anything else (spec/4-release.md §3.2).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import httpx

from strongroom.answers import TooLongAnswerError, read_answer
from strongroom.errors import TransportError, UsageError

_MAX_ANSWER: Final = 1 << 20
_HTTP_OK, _TOO_MANY, _SERVER_ERROR, _NOT_FOUND = 200, 429, 500, 404
_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_BURST: Final = 4  # the requests of one fetch may follow each other at once


class CollateralFetchError(TransportError):
    """The collateral service cannot be reached, is too slow, or has nothing for this platform."""


class UnknownPlatformError(CollateralFetchError):
    """The service answered that it does not know what it was asked about."""


class PatientClient:
    """What one service is asked through.

    ``proxy``: the URL of an HTTP proxy; empty for none (the environment is not read). ``per_second``: requests at most,
    beyond a first four. ``attempts``: tries per request when the service is busy or unreachable. ``deadline``: for a
    whole fetch.
    """

    def __init__(
        self,
        url: str,
        *,
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
        self.url = url.rstrip("/")
        self._proxy = proxy or None
        self._deadline = deadline.total_seconds()
        self._attempts = attempts
        self._interval = 1.0 / per_second
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def _open(self) -> httpx.Client:
        return httpx.Client(proxy=self._proxy, trust_env=False, follow_redirects=False)

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
                    known = status != _NOT_FOUND
                    failure = CollateralFetchError if known else UnknownPlatformError
                    hint = "check the address" if known else "the service does not know this platform"
                    raise failure(f"{url} answered {reason}", hint=hint)
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
