"""The storage adds to the data: bytes to a file, or files to a dataset."""

from __future__ import annotations

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.envelope.container import open_file
from strongroom.envelope.files import open_files
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.table import open_table
from strongroom.errors import EnvelopeError


def refuse(at_rest, message):
    with pytest.raises(TamperedDataError, match=message):
        open_table(at_rest.directory, at_rest.keys(), manifest=at_rest.manifest)


def test_bytes_after_a_table_file_are_refused(table_at_rest):
    with table_at_rest.path(0).open("ab") as stream:
        stream.write(b"\0")
    refuse(table_at_rest, "the manifest says")


def test_genuine_file_added_again_is_refused(table_at_rest):
    shutil.copy(table_at_rest.path(0), table_at_rest.directory / "part-00099.parquet")
    refuse(table_at_rest, r"has besides \['part-00099.parquet'\]")


def test_plaintext_file_smuggled_in_is_refused(table_at_rest):
    """The attacker invents rows: a plain Parquet file with the right columns needs no key at all."""
    forged = pa.table({"id": [1], "name": ["forged"], "salary": [10**9]})
    pq.write_table(forged, table_at_rest.directory / "part-00004.parquet")
    refuse(table_at_rest, "has besides")


def test_plaintext_file_in_the_place_of_an_encrypted_one_is_refused(table_at_rest):
    path, size = table_at_rest.path(0), table_at_rest.manifest.files[0].size
    pq.write_table(pa.table({"id": [1], "name": ["forged"], "salary": [10**9]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(size - len(data)) + data[4:])
    refuse(table_at_rest, "does not end in an encrypted Parquet footer")


@pytest.mark.parametrize("name", [".hidden", "_SUCCESS", "sub"])
def test_anything_else_in_the_directory_is_refused(table_at_rest, name):
    (table_at_rest.directory / name).mkdir()
    refuse(table_at_rest, "has besides")


def test_link_in_the_place_of_a_file_is_refused(table_at_rest):
    path = table_at_rest.path(0)
    path.rename(table_at_rest.directory.parent / "elsewhere")
    path.symlink_to(table_at_rest.directory.parent / "elsewhere")
    refuse(table_at_rest, "the manifest says")


def test_pipe_in_the_place_of_a_file_does_not_hang_the_reader(table_at_rest):
    path = table_at_rest.path(0)
    path.unlink()
    os.mkfifo(path)
    refuse(table_at_rest, "the manifest says")


@pytest.mark.parametrize("extra", [1, 16, 100, 65_552])
def test_bytes_after_a_container_are_refused_without_its_manifest(files_at_rest, extra):
    path = files_at_rest.path(0)
    with path.open("ab") as stream:
        stream.write(os.urandom(extra))
    with pytest.raises(EnvelopeError):
        open_file(path, files_at_rest.keys(), name=path.name)


def test_container_added_to_a_dataset_is_refused(files_at_rest):
    shutil.copy(files_at_rest.path(0), files_at_rest.directory / "file-000009.sealed")
    with pytest.raises(TamperedDataError, match="has besides"):
        open_files(files_at_rest.directory, files_at_rest.keys(), manifest=files_at_rest.manifest)
