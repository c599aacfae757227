"""Compute the 64 bytes that tie evidence to one role, nonce, channel, key pair and job (spec/4-release.md §2).

Both sides compute the value from what they themselves know; it never accepts a digest made by the peer, and has no way
to leave out the nonce or the attester's own key.
"""

from __future__ import annotations

import hashlib

from strongroom.attestation.roles import Role
from strongroom.digests import digest384, frame
from strongroom.errors import UsageError

DOMAIN = b"strongroom-ra-v1\0"
NONCE_BYTES = 32
EXPORTER_BYTES = 32
KEY_DIGEST_BYTES = 48
JOB_DIGEST_BYTES = 48


def key_bundle_digest(*public_keys: bytes) -> bytes:
    """Return the 48 bytes that stand for one public key or an ordered bundle of them.

    One key: the plain SHA-384 of its encoding (a DER SubjectPublicKeyInfo), as design and peers have it. Several: the
    labelled, length-framed SHA-384, so that no two bundles share a digest. Raise UsageError for no key or an empty one.
    """
    if not public_keys or not all(public_keys):
        raise UsageError("a key bundle has at least one public key, and none is empty")
    if len(public_keys) == 1:
        return hashlib.sha384(public_keys[0]).digest()
    return digest384("strongroom/key-bundle/v1", *public_keys)


def report_data(
    *,
    role: Role,
    nonce: bytes,
    exporter: bytes,
    own_key: bytes,
    peer_key: bytes,
    job_digest: bytes,
) -> bytes:
    """Return REPORTDATA for the attester playing ``role``.

    ``nonce``: the verifier's 32 bytes. ``exporter``: 32 bytes of TLS exporter (RFC 9266), or empty where the peer pins
    the server's key instead (the broker's door). ``own_key``: :func:`key_bundle_digest` of the attester's keys.
    ``peer_key``: the same of the other side, or empty. ``job_digest``: 48 bytes, or empty for the broker.
    Raise UsageError if a part has another length or the role never attests.
    """
    if not role.attests:
        raise UsageError(f"role {role.value} runs outside a TEE and has no evidence to bind")
    for name, part, lengths in (
        ("nonce", nonce, (NONCE_BYTES,)),
        ("exporter", exporter, (EXPORTER_BYTES, 0)),
        ("own_key", own_key, (KEY_DIGEST_BYTES,)),
        ("peer_key", peer_key, (KEY_DIGEST_BYTES, 0)),
        ("job_digest", job_digest, (JOB_DIGEST_BYTES, 0)),
    ):
        if len(part) not in lengths:
            expected = " or ".join(str(length) for length in lengths)
            raise UsageError(f"{name} has {len(part)} bytes, expected {expected}")
    parts = frame(role.value.encode(), nonce, exporter, own_key, peer_key, job_digest)
    return hashlib.sha512(DOMAIN + parts).digest()
