"""The storage puts one genuine file in the place of another: every byte is authentic, and in the wrong place."""

from __future__ import annotations

import shutil

import pytest

from strongroom.envelope.container import open_file
from strongroom.envelope.files import open_files
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.manifest import FileEntry
from strongroom.envelope.table import open_table


def pad_to(path, size):
    """Bring a file to the expected size, as an attacker would to get past the check of sizes."""
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(max(0, size - len(data))) + data[4:])


def test_file_copied_over_another_of_the_same_dataset_is_refused(table_at_rest):
    """Rows of one file counted twice, those of another not at all; Parquet's own encryption does not notice."""
    expected = table_at_rest.manifest.files[1].size
    shutil.copy(table_at_rest.path(0), table_at_rest.path(1))
    pad_to(table_at_rest.path(1), expected)
    with pytest.raises(TamperedDataError):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)


def test_file_of_the_same_size_is_refused_by_its_footer(table_at_rest):
    first, second = table_at_rest.manifest.files[:2]
    shutil.copy(table_at_rest.path(0), table_at_rest.path(1))
    from strongroom.envelope.footer import read_footer

    same_size = FileEntry(
        path=second.path, size=first.size, sha256=second.sha256, footer_digest=second.footer_digest, rows=second.rows
    )
    with pytest.raises(TamperedDataError, match="its footer differs"):
        read_footer(table_at_rest.path(1), same_size)


def test_two_files_that_changed_places_are_refused(table_at_rest):
    one, two = table_at_rest.path(0), table_at_rest.path(1)
    one.rename(table_at_rest.directory / "aside")
    two.rename(one)
    (table_at_rest.directory / "aside").rename(two)
    with pytest.raises(TamperedDataError):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)


def test_file_of_the_older_version_is_refused(table_at_rest, older_table):
    """Yesterday's salaries under today's manifest."""
    shutil.copy(older_table.path(0), table_at_rest.path(0))
    with pytest.raises(TamperedDataError):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)


def test_container_in_the_place_of_another_is_refused(files_at_rest):
    """Both have the same size, so that only the name bound into the key tells them apart."""
    a, b = files_at_rest.path(0), files_at_rest.path(1)
    assert a.stat().st_size == b.stat().st_size
    shutil.copy(a, b)
    files = open_files(files_at_rest.directory, files_at_rest.keys(), manifest=files_at_rest.manifest)
    assert files.open("a").read(1)
    with pytest.raises(TamperedDataError, match="does not authenticate"):
        files.open("b")


def test_container_of_another_version_is_refused(files_at_rest):
    path = files_at_rest.path(0)
    with pytest.raises(TamperedDataError, match="does not authenticate"):
        open_file(path, files_at_rest.keys(version=1), name=path.name)
