"""Data keys stay secret by default, and every derived key is for one thing only."""

from __future__ import annotations

import copy
import hashlib
import hmac
import logging
import pickle

import cbor2
import pytest

from strongroom.digests import frame
from strongroom.envelope.keys import (
    DataKey,
    DatasetKeys,
    InvalidKeyError,
    MissingKeyError,
    derive_column_key,
    derive_file_key,
    derive_files_key,
    derive_footer_key,
    reveal,
)
from strongroom.envelope.names import BadNameError

SECRET = bytes(range(32))


def test_data_key_does_not_print_its_secret(caplog):
    key = DataKey(SECRET)
    logging.getLogger().warning("key %s %r %s", key, key, {"key": key})
    for text in (repr(key), str(key), f"{key}", caplog.text):
        assert "DataKey()" in text
        assert SECRET.hex()[:16] not in text
        assert "0x" not in text


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    "held", [DataKey(SECRET), DatasetKeys.from_dek(DataKey(SECRET), dataset="d", version=1, columns=["a"])]
)
def test_keys_cannot_be_pickled_or_copied(take, held):
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        take(held)


def test_data_key_has_no_attribute_dictionary_to_leak_through():
    with pytest.raises(TypeError):
        vars(DataKey(SECRET))


def test_data_key_cannot_be_found_by_hash():
    with pytest.raises(TypeError):
        {DataKey(SECRET)}


@pytest.mark.parametrize("secret", [b"", bytes(16), bytes(31), bytes(33), "x" * 32, None])
def test_key_of_another_size_is_refused(secret):
    with pytest.raises(InvalidKeyError, match="32 bytes"):
        DataKey(secret)


def test_wiped_key_reveals_nothing():
    key = DataKey(SECRET)
    key.wipe()
    with pytest.raises(InvalidKeyError, match="wiped"):
        reveal(key)


def test_wiped_bundle_wipes_every_key():
    keys = DatasetKeys.from_dek(DataKey.generate(), dataset="d", version=1, columns=["a", "b"])
    held = [keys.key(key_id) for key_id in keys.key_ids]
    keys.wipe()
    for key in held:
        with pytest.raises(InvalidKeyError):
            reveal(key)


def test_generated_keys_differ():
    assert DataKey.generate() != DataKey.generate()
    assert DataKey(SECRET) == DataKey(SECRET)


def test_column_key_is_hkdf_sha256_of_framed_names():
    """RFC 5869, computed by hand: extract with a zero salt, one block of expand."""
    info = frame(b"strongroom/column-key/v1", b"flights", b"7", "é".encode())
    extracted = hmac.digest(bytes(32), SECRET, hashlib.sha256)
    expanded = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    assert reveal(derive_column_key(DataKey(SECRET), dataset="flights", version=7, column="é")) == expanded


def test_every_derived_key_is_another_one():
    dek = DataKey(SECRET)
    files = derive_files_key(dek, dataset="d", version=1)
    keys = [
        derive_footer_key(dek, dataset="d", version=1),
        derive_footer_key(dek, dataset="d", version=2),
        derive_footer_key(dek, dataset="e", version=1),
        derive_column_key(dek, dataset="d", version=1, column="a"),
        derive_column_key(dek, dataset="d", version=1, column="b"),
        derive_column_key(dek, dataset="d", version=2, column="a"),
        derive_column_key(dek, dataset="da", version=1, column="a"),
        files,
        derive_file_key(files, dataset="d", version=1, path="x"),
        derive_file_key(files, dataset="d", version=1, path="y"),
        derive_file_key(files, dataset="d", version=1, path="x", header=b"h"),
    ]
    assert len({reveal(key) for key in keys}) == len(keys)


def test_bundle_round_trips_and_names_its_columns():
    keys = DatasetKeys.from_dek(DataKey(SECRET), dataset="d", version=3, columns=["b", "a/c"])
    again = DatasetKeys.decode(keys.encode())
    assert (again.dataset, again.version, set(again.columns)) == ("d", 3, {"b", "a/c"})
    assert all(again.key(key_id) == keys.key(key_id) for key_id in keys.key_ids)
    assert set(keys.key_ids) == {"d@3/footer", "d@3/column/b", "d@3/column/a/c"}


def test_bundle_prints_neither_keys_nor_handle():
    keys = DatasetKeys.from_dek(DataKey(SECRET), dataset="d", version=3, columns=["b"])
    assert repr(keys) == "DatasetKeys(dataset='d', version=3, keys=2)"


def test_missing_key_is_named():
    keys = DatasetKeys.from_dek(DataKey(SECRET), dataset="d", version=3, columns=["b"])
    with pytest.raises(MissingKeyError, match="d@3/column/salary"):
        keys.key("d@3/column/salary")


@pytest.mark.parametrize("key_id", ["e@3/footer", "d@4/footer", "d@3/column/", "d@3/footer/", "d@3/other", "", 5])
def test_bundle_refuses_keys_of_something_else(key_id):
    with pytest.raises((InvalidKeyError, BadNameError)):
        DatasetKeys("d", 3, {key_id: DataKey(SECRET)})


def test_bundle_of_no_keys_is_refused():
    with pytest.raises(InvalidKeyError, match="holds no key"):
        DatasetKeys("d", 3, {})


def test_one_column_given_as_text_is_not_taken_letter_by_letter():
    with pytest.raises(InvalidKeyError, match="sequence of names"):
        DatasetKeys.from_dek(DataKey(SECRET), dataset="d", version=3, columns="salary")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        cbor2.dumps([]),
        cbor2.dumps(["strongroom/dataset-keys", 2, "d", 1, {"d@1/footer": SECRET}]),
        cbor2.dumps(["strongroom/dataset-keys", 1, "d", 1, {"d@1/footer": SECRET[:16]}]),
        cbor2.dumps(["strongroom/dataset-keys", 1, "d", 1, {"e@1/footer": SECRET}]),
        cbor2.dumps(["strongroom/dataset-keys", 1, "d", 1, {"d@1/footer": SECRET}]) + b"\x00",
        bytes(5 << 20),
    ],
)
def test_malformed_bundle_is_refused(data):
    with pytest.raises(InvalidKeyError):
        DatasetKeys.decode(data)


@pytest.mark.parametrize("name", ["a:b", "a;b", "a,b", " a", "a ", "", "a\nb", "x" * 256])
def test_column_name_that_breaks_out_of_the_key_configuration_is_refused(name):
    """Parquet's key tools write columns as ``id:a,b;id:c``: such a name would leave some column in plaintext."""
    with pytest.raises(BadNameError, match="cannot be encrypted") as refused:
        derive_column_key(DataKey(SECRET), dataset="d", version=1, column=name)
    assert "rename" in refused.value.hint


@pytest.mark.parametrize("name", ["", "a/b", "a@1", ".a", "a b", "ü", "a" * 129, "a\n", "a:b"])
def test_dataset_name_that_could_be_mistaken_is_refused(name):
    with pytest.raises(BadNameError):
        derive_footer_key(DataKey(SECRET), dataset=name, version=1)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", 1 << 53])
def test_version_that_is_not_a_count_is_refused(version):
    with pytest.raises(BadNameError):
        derive_footer_key(DataKey(SECRET), dataset="d", version=version)
