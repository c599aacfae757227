"""Bind every sealed message and every request of a session to what it is for (spec/4-release.md §4, §7).

Both ends compute these values from what they themselves know. Nothing here is secret except the keys passed in.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.digests import digest, frame
from strongroom.errors import EnvelopeError

SESSION_BYTES = 16
SECRET_BYTES = 32
_NONCE_BYTES = 12


class ReleaseSealError(EnvelopeError):
    """Released keys do not open, or a request's counter would seal twice."""


def enrol_info(*, dataset: str, version: int, manifest_digest: bytes) -> bytes:
    """Return the HPKE info under which an owner seals a data key to the broker."""
    return frame(b"strongroom/enrol/v1", dataset.encode(), str(version).encode(), manifest_digest)


def kept_info(*, job_digest: bytes, output: str, manifest_digest: str) -> bytes:
    """Return the HPKE info under which egress seals the key of files that stay inside to the broker."""
    return frame(b"strongroom/kept/v1", job_digest, output.encode(), manifest_digest.encode())


def session_info(*, session: bytes, nonce: bytes, job_digest: bytes) -> bytes:
    """Return the HPKE info under which the broker seals a session's secret to an attested key."""
    return frame(b"strongroom/session/v1", session, nonce, job_digest)


def release_terms(*, job_digest: bytes, datasets: Sequence[tuple[str, int, str]], policy_digest: str) -> bytes:
    """Return under which terms keys are released: job, every (dataset, version, policy digest) and their fusion."""
    parts = [part.encode() for name, version, policy in datasets for part in (name, str(version), policy)]
    return frame(job_digest, policy_digest.encode(), frame(*parts))


class ReleaseSeal:
    """Seals what a session's holder is released: AES-256-GCM under a key that only both ends of the session derive.

    The secret was sealed to the attested key by HPKE, so this is that exchange's exported key. The nonce is the
    request's counter: it only grows, and a counter that does not is refused, so no nonce is ever used again.
    """

    __slots__ = ("_aead", "_last", "_session")

    def __init__(self, secret: bytes, *, session: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ReleaseSealError(f"a session's secret has {SECRET_BYTES} bytes, got {len(secret)}")
        info = frame(b"strongroom/release-key/v1", session)
        # HKDF-Expand-SHA-256 (RFC 5869 §2.3) of one block's length is this HMAC, at a tenth of the general one's price.
        self._aead = AESGCM(hmac.digest(secret, info + b"\x01", "sha256"))
        self._session = session
        self._last = 0

    def seal(self, plaintext: bytes, *, counter: int, terms: bytes) -> bytes:
        """Return ``plaintext`` sealed as the answer to request ``counter``; each counter seals once, upwards."""
        if counter <= self._last:
            raise ReleaseSealError(f"request {counter} came after request {self._last}, and must seal nothing")
        self._last = counter
        return self._aead.encrypt(_nonce(counter), plaintext, self._bind(counter, terms))

    def open(self, sealed: bytes, *, counter: int, terms: bytes) -> bytes:
        """Return what was sealed for request ``counter`` under ``terms``; raise ReleaseSealError otherwise."""
        try:
            return self._aead.decrypt(_nonce(counter), sealed, self._bind(counter, terms))
        except (InvalidTag, ValueError) as error:
            raise ReleaseSealError(
                f"the released keys do not open as the answer to request {counter}",
                hint="they were sealed for another request, session, job or policy, or changed on the way",
            ) from error

    def _bind(self, counter: int, terms: bytes) -> bytes:
        return frame(b"strongroom/release/v2", self._session, str(counter).encode(), terms)

    def __repr__(self) -> str:
        return "ReleaseSeal()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a release seal cannot be pickled or copied")


def _nonce(counter: int) -> bytes:
    """Return the counter as 12 bytes, big endian."""
    return counter.to_bytes(_NONCE_BYTES, "big")


def request_mac(secret: bytes, *, path: str, session: bytes, counter: int, body: bytes) -> bytes:
    """Return the HMAC that proves a request comes from the holder of the session's secret."""
    return hmac.digest(
        secret, frame(b"strongroom/request/v1", path.encode(), session, str(counter).encode(), body), "sha256"
    )


def admission_mac(secret: bytes, *, job_digest: bytes, role: str, key_digest: bytes) -> bytes:
    """Return the broker's letter of introduction for one member of one job."""
    return hmac.digest(secret, frame(b"strongroom/admission/v1", job_digest, role.encode(), key_digest), "sha256")


def ticket_digest(ticket: bytes) -> bytes:
    """Return what the broker keeps of a ticket."""
    return digest("strongroom/ticket/v1", ticket)
