"""Read one answer of an HTTP service that is trusted for nothing: bounded in size and time while it is being read.

A host that sends without end, or a byte now and then, fills no memory and holds nobody up.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx


class TooLongAnswerError(httpx.HTTPError):
    """A service sent more than any sound answer has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer as it came, without any encoding undone."""

    status: int
    headers: httpx.Headers
    body: bytes


def read_answer(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    most: int,
    ends: float,
    **request: Any,  # noqa: ANN401  httpx's own
) -> Answer:
    """Return the answer to one request; ``most`` is in bytes, ``ends`` a time of the monotonic clock.

    Raise TooLongAnswerError or httpx.ReadTimeout, both httpx.HTTPError, when one is passed.
    """
    if time.monotonic() >= ends:
        raise httpx.ReadTimeout("the deadline passed")
    headers = {"Accept-Encoding": "identity", **request.pop("headers", {})}
    with client.stream(method, url, headers=headers, **request) as answer:
        parts, size = [], 0
        for part in answer.iter_raw():
            parts.append(part)
            size += len(part)
            if size > most:
                raise TooLongAnswerError(f"an answer of more than {most} bytes")
            if time.monotonic() > ends:
                raise httpx.ReadTimeout("the deadline passed before the answer was complete")
        return Answer(status=answer.status_code, headers=answer.headers, body=b"".join(parts))
