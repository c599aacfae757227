"""The storage serves an older version of a dataset, whole and genuinely signed."""

from __future__ import annotations

import shutil

import pytest

from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.manifest import ManifestError, read_manifest, verify_manifest
from strongroom.envelope.table import open_table


def test_older_version_does_not_pass_for_the_released_one(table_at_rest, older_table):
    manifest = verify_manifest(read_manifest(older_table.directory), owner=table_at_rest.owner.party)
    with pytest.raises(ManifestError, match=r"people@1 .*keys are for people@2"):
        open_table(older_table.directory, table_at_rest.keys(), manifest=manifest)


def test_older_files_under_the_released_manifest_are_refused(table_at_rest, older_table):
    shutil.rmtree(table_at_rest.directory)
    shutil.copytree(older_table.directory, table_at_rest.directory)
    with pytest.raises(TamperedDataError):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)


def test_keys_of_one_version_do_not_open_another(table_at_rest, older_table):
    """Even with the same data key, every version has keys of its own."""
    assert older_table.keys().key("people@1/footer") != table_at_rest.keys().key("people@2/footer")
    opened = open_table(older_table.directory, older_table.keys(), manifest=older_table.manifest)
    assert opened.to_table()["salary"][0].as_py() == 25_000


def test_manifest_of_another_dataset_is_refused(table_at_rest, files_at_rest):
    with pytest.raises(ManifestError, match="scans@2"):
        open_table(files_at_rest.directory, table_at_rest.keys(), manifest=files_at_rest.manifest)
