"""Wrap file keys under column and footer keys, as Python and Java both do (spec/1-encrypted-dataset.md §4).

Wrapped text is base64(nonce (12 bytes) | ciphertext | tag (16 bytes)) of AES-256-GCM with the master key id, in UTF-8,
as associated data. It is local: no call to any key service, ever.
"""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.envelope.keys import DataKey, DatasetKeys, reveal
from strongroom.errors import EnvelopeError

_NONCE = 12
_TAG = 16


class UnwrapError(EnvelopeError):
    """A wrapped key does not open under the key that should have wrapped it."""


def wrap_key(key: DataKey, secret: bytes, *, context: bytes) -> str:
    """Return ``secret`` wrapped under ``key`` and bound to ``context``, as base64 text."""
    nonce = os.urandom(_NONCE)
    return base64.b64encode(nonce + AESGCM(reveal(key)).encrypt(nonce, secret, context)).decode()


def unwrap_key(key: DataKey, wrapped: str | bytes, *, context: bytes) -> bytes:
    """Return the secret that :func:`wrap_key` wrapped; raise UnwrapError if anything differs."""
    try:
        raw = base64.b64decode(wrapped, validate=True)
        if len(raw) < _NONCE + _TAG:
            raise UnwrapError(f"a wrapped key has at least {_NONCE + _TAG} bytes, got {len(raw)}")
        return AESGCM(reveal(key)).decrypt(raw[:_NONCE], raw[_NONCE:], context)
    except (InvalidTag, binascii.Error, ValueError) as error:
        raise UnwrapError(
            "a wrapped key does not open", hint="the key is another one, or the wrapped key was changed or moved"
        ) from error


def wrap_file_key(keys: DatasetKeys, file_key: bytes, *, master_key_id: str) -> str:
    """Return a Parquet file key wrapped under the dataset's key called ``master_key_id``."""
    return wrap_key(keys.key(master_key_id), file_key, context=master_key_id.encode())


def unwrap_file_key(keys: DatasetKeys, wrapped: str | bytes, *, master_key_id: str) -> bytes:
    """Return the Parquet file key wrapped under the dataset's key called ``master_key_id``."""
    return unwrap_key(keys.key(master_key_id), wrapped, context=master_key_id.encode())
