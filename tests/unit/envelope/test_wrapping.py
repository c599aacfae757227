"""File keys are wrapped in the one format that Python and Java share."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.envelope.keys import DataKey, DatasetKeys, MissingKeyError, reveal
from strongroom.envelope.wrapping import UnwrapError, unwrap_file_key, wrap_file_key

KEYS = DatasetKeys.from_dek(DataKey(bytes(range(32))), dataset="d", version=1, columns=["a", "b"])
ID = "d@1/column/a"


def test_wrapped_text_is_base64_of_nonce_ciphertext_tag_with_the_id_as_associated_data():
    raw = base64.b64decode(wrap_file_key(KEYS, b"k" * 32, master_key_id=ID), validate=True)
    assert len(raw) == 12 + 32 + 16
    assert AESGCM(reveal(KEYS.key(ID))).decrypt(raw[:12], raw[12:], ID.encode()) == b"k" * 32


def test_file_key_wrapped_elsewhere_in_that_format_opens():
    nonce = bytes(12)
    foreign = base64.b64encode(nonce + AESGCM(reveal(KEYS.key(ID))).encrypt(nonce, b"k" * 32, ID.encode()))
    assert unwrap_file_key(KEYS, foreign, master_key_id=ID) == b"k" * 32


def test_file_key_moved_to_another_column_does_not_open():
    wrapped = wrap_file_key(KEYS, b"k" * 32, master_key_id=ID)
    with pytest.raises(UnwrapError):
        unwrap_file_key(KEYS, wrapped, master_key_id="d@1/column/b")


def test_file_key_of_a_withheld_column_does_not_open():
    with pytest.raises(MissingKeyError):
        unwrap_file_key(KEYS, wrap_file_key(KEYS, b"k" * 32, master_key_id=ID), master_key_id="d@1/column/c")


@pytest.mark.parametrize("wrapped", ["", "!!", "AAAA", base64.b64encode(bytes(60)).decode(), "é"])
def test_malformed_wrapped_key_is_refused(wrapped):
    with pytest.raises(UnwrapError):
        unwrap_file_key(KEYS, wrapped, master_key_id=ID)


def test_two_wraps_of_one_key_differ():
    assert wrap_file_key(KEYS, b"k" * 32, master_key_id=ID) != wrap_file_key(KEYS, b"k" * 32, master_key_id=ID)
