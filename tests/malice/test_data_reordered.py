"""The storage moves pieces inside a file."""

from __future__ import annotations

import pytest

from strongroom.envelope.container import HEADER_BYTES, SMALL_SEGMENT_BYTES, open_file
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.table import decrypting, open_table

STEP = SMALL_SEGMENT_BYTES + 16


def segment(data, index):
    return data[HEADER_BYTES + index * STEP : HEADER_BYTES + (index + 1) * STEP]


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 1, 1)])
def test_container_segments_in_another_order_are_refused(files_at_rest, order):
    path = files_at_rest.path(0)
    data = path.read_bytes()
    moved = data[:HEADER_BYTES] + b"".join(segment(data, i) for i in order) + data[HEADER_BYTES + 3 * STEP :]
    path.write_bytes(moved)
    with (
        open_file(path, files_at_rest.keys(), name=path.name) as reader,
        pytest.raises(TamperedDataError, match="segment"),
    ):
        reader.read()


def test_segment_of_another_container_is_refused(files_at_rest):
    path = files_at_rest.path(0)
    data, other = path.read_bytes(), files_at_rest.path(1).read_bytes()
    path.write_bytes(segment(data, 0).join([data[:HEADER_BYTES], segment(other, 1) + data[HEADER_BYTES + 2 * STEP :]]))
    with (
        open_file(path, files_at_rest.keys(), name=path.name) as reader,
        pytest.raises(TamperedDataError, match="segment 1"),
    ):
        reader.read()


def test_header_of_another_container_is_refused(files_at_rest):
    path = files_at_rest.path(0)
    path.write_bytes(files_at_rest.path(1).read_bytes()[:HEADER_BYTES] + path.read_bytes()[HEADER_BYTES:])
    with pytest.raises(TamperedDataError, match="does not authenticate"):
        open_file(path, files_at_rest.keys(), name=path.name)


def test_pages_moved_inside_a_table_file_are_refused(table_at_rest):
    """Sizes and footer stay as signed; pages carry their row group, column and place as associated data."""
    path = table_at_rest.path(0)
    data = bytearray(path.read_bytes())
    middle = len(data) // 4
    data[4:middle], data[middle : 2 * middle - 4] = data[middle : 2 * middle - 4], data[4:middle]
    path.write_bytes(data)
    opened = open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)
    with pytest.raises(TamperedDataError), decrypting("people"):
        opened.to_table()
