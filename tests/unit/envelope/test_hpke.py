"""A message sealed to a key opens with that key, for that purpose, unchanged, and in no other way."""

from __future__ import annotations

import copy
import pickle

import pytest

from strongroom.envelope.hpke import OVERHEAD_BYTES, PUBLIC_BYTES, KemKey, SealedMessageError, seal


@pytest.fixture(scope="module")
def key():
    return KemKey.generate()


def test_message_opens_with_the_private_key(key):
    sealed = seal(key.public, b"thirty-two bytes of a data key..", info=b"release", aad=b"job 1")
    assert len(sealed) == 32 + OVERHEAD_BYTES
    assert key.open(sealed, info=b"release", aad=b"job 1") == b"thirty-two bytes of a data key.."


def test_private_key_survives_the_sealed_store(key):
    again = KemKey.decode_private(key.encode_private())
    assert again.public == key.public
    assert again.open(seal(key.public, b"m", info=b"i"), info=b"i") == b"m"


@pytest.mark.parametrize(
    ("info", "aad"), [(b"other", b"job 1"), (b"release", b"job 2"), (b"releasejob 1", b""), (b"", b"releasejob 1")]
)
def test_message_for_another_purpose_does_not_open(key, info, aad):
    sealed = seal(key.public, b"m", info=b"release", aad=b"job 1")
    with pytest.raises(SealedMessageError):
        key.open(sealed, info=info, aad=aad)


def test_message_to_another_key_does_not_open(key):
    with pytest.raises(SealedMessageError):
        KemKey.generate().open(seal(key.public, b"m", info=b"i"), info=b"i")


@pytest.mark.parametrize("position", [0, 1087, 1088, 1119, 1120, -1])
def test_changed_message_does_not_open(key, position):
    """ML-KEM ciphertext, X25519 share, payload and tag: each is protected."""
    sealed = bytearray(seal(key.public, b"message", info=b"i"))
    sealed[position] ^= 1
    with pytest.raises(SealedMessageError):
        key.open(bytes(sealed), info=b"i")


@pytest.mark.parametrize("length", [0, 1, 1120, 1135])
def test_cut_message_does_not_open(key, length):
    with pytest.raises(SealedMessageError):
        key.open(seal(key.public, b"", info=b"i")[:length], info=b"i")


@pytest.mark.parametrize("public", [b"", bytes(32), bytes(PUBLIC_BYTES - 1), b"\xff" * PUBLIC_BYTES])
def test_malformed_public_key_is_refused(public):
    with pytest.raises(SealedMessageError):
        seal(public, b"m", info=b"i")


def test_malformed_private_key_is_refused():
    with pytest.raises(SealedMessageError, match="96 bytes"):
        KemKey.decode_private(bytes(95))


def test_private_key_does_not_print_pickle_or_copy(key):
    assert repr(key) == "KemKey()"
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            take(key)
