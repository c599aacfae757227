"""Somebody tries keys that are not the dataset's."""

from __future__ import annotations

import base64
import re

import pytest

from strongroom.envelope.container import open_file
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.envelope.table import open_table


def test_guessed_data_key_opens_no_table(table_at_rest):
    keys = DatasetKeys.from_dek(DataKey.generate(), dataset="people", version=2, columns=["id"])
    with pytest.raises(TamperedDataError, match="does not open with the keys released"):
        open_table(table_at_rest.directory, keys, manifest=table_at_rest.manifest)


def test_guessed_data_key_opens_no_container(files_at_rest):
    path = files_at_rest.path(0)
    keys = DatasetKeys.for_files(DataKey.generate(), dataset="scans", version=2)
    with pytest.raises(TamperedDataError, match="does not authenticate"):
        open_file(path, keys, name=path.name)


def test_key_of_one_column_under_the_name_of_another_opens_nothing(table_at_rest):
    """A workload with the key of ``id`` renames it, to read ``salary``."""
    honest = table_at_rest.keys("id")
    renamed = DatasetKeys(
        "people",
        2,
        {
            "people@2/footer": honest.key("people@2/footer"),
            "people@2/column/salary": honest.key("people@2/column/id"),
        },
    )
    with pytest.raises(TamperedDataError, match="key released for column 'salary'"):
        open_table(table_at_rest.directory, renamed, manifest=table_at_rest.manifest)


def test_stored_files_carry_wrapped_keys_only(table_at_rest):
    """The footer's key material is encrypted with the footer; the data key and derived keys are nowhere on disk."""
    stored = b"".join(path.read_bytes() for path in table_at_rest.directory.iterdir())
    keys = table_at_rest.keys()
    for secret in [table_at_rest.dek, *(keys.key(key_id) for key_id in keys.key_ids)]:
        raw = bytes(secret._secret)
        assert raw not in stored
        assert base64.b64encode(raw) not in stored
    assert not re.search(rb"people@2/column/salary", stored)
