"""Bind every sealed message and every request of a session to what it is for (spec/4-release.md §4, §7).

Both ends compute these values from what they themselves know. Nothing here is secret except the keys passed in.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from strongroom.digests import digest, frame

SESSION_BYTES = 16
SECRET_BYTES = 32


def enrol_info(*, dataset: str, version: int, manifest_digest: bytes) -> bytes:
    """Return the HPKE info under which an owner seals a data key to the broker."""
    return frame(b"strongroom/enrol/v1", dataset.encode(), str(version).encode(), manifest_digest)


def session_info(*, session: bytes, nonce: bytes, job_digest: bytes) -> bytes:
    """Return the HPKE info under which the broker seals a session's secret to an attested key."""
    return frame(b"strongroom/session/v1", session, nonce, job_digest)


def release_info(
    *, session: bytes, counter: int, job_digest: bytes, datasets: Sequence[tuple[str, int, str]], policy_digest: str
) -> bytes:
    """Return the HPKE info of released keys: request, job, every (dataset, version, policy digest) and their fusion."""
    parts = [part.encode() for name, version, policy in datasets for part in (name, str(version), policy)]
    return frame(
        b"strongroom/release/v1", session, str(counter).encode(), job_digest, policy_digest.encode(), frame(*parts)
    )


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
