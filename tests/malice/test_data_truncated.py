"""The storage cuts data off, hoping that the rest is taken for the whole."""

from __future__ import annotations

import pytest

from strongroom.envelope.container import HEADER_BYTES, SMALL_SEGMENT_BYTES, open_file
from strongroom.envelope.files import open_files
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.table import open_table
from strongroom.errors import EnvelopeError

STEP = SMALL_SEGMENT_BYTES + 16


@pytest.mark.parametrize("left", [0, 1, 8, 100, -1])
def test_shortened_table_file_is_refused(table_at_rest, left):
    path = table_at_rest.path(1)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(TamperedDataError, match=r"part-00001.*bytes, the manifest says"):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)


def test_missing_table_file_is_refused(table_at_rest):
    """Without its last file a table is still a valid table, of fewer rows."""
    table_at_rest.path(-1).unlink()
    with pytest.raises(TamperedDataError, match=r"lacks \['part-00003.parquet'\]"):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)


@pytest.mark.parametrize(
    "size", [0, 10, HEADER_BYTES, HEADER_BYTES + 16, HEADER_BYTES + STEP, HEADER_BYTES + 2 * STEP, -1, -116]
)
def test_container_cut_anywhere_is_refused_without_its_manifest(files_at_rest, size):
    """Cut at a segment boundary, every remaining segment is genuine; only the last flag tells."""
    path = files_at_rest.path(0)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(EnvelopeError):
        open_file(path, files_at_rest.keys(), name=path.name)


def test_cut_container_is_refused_by_its_manifest(files_at_rest):
    path = files_at_rest.path(0)
    path.write_bytes(path.read_bytes()[: HEADER_BYTES + STEP])
    with pytest.raises(TamperedDataError, match="the manifest says"):
        open_files(files_at_rest.directory, files_at_rest.keys(), manifest=files_at_rest.manifest)


def test_container_cut_while_it_is_read_is_noticed(files_at_rest):
    path = files_at_rest.path(0)
    reader = open_file(path, files_at_rest.keys(), name=path.name)
    reader.read(10)
    with path.open("r+b") as stream:
        stream.truncate(HEADER_BYTES + STEP + 5)
    with pytest.raises(TamperedDataError, match="cut while it was read"):
        reader.read()
