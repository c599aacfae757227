"""The storage shows genuine files to the checks, and others to the reader that comes after."""

from __future__ import annotations

import shutil

import pyarrow.dataset as ds
import pytest

from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.table import decrypting, open_table


def swap_everything(at_rest):
    first = at_rest.path(0).read_bytes()
    for index in range(1, len(at_rest.manifest.files)):
        at_rest.path(index).write_bytes(first)


@pytest.mark.parametrize(
    "read",
    [
        lambda table: table.to_table(),
        lambda table: table.to_table(columns=["salary"]),
        lambda table: table.to_table(filter=ds.field("salary") > 0),
    ],
)
def test_file_swapped_after_the_checks_gives_an_error_and_no_rows(table_at_rest, read):
    opened = open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)
    swap_everything(table_at_rest)
    with pytest.raises(TamperedDataError), decrypting("people"):
        read(opened)


def test_older_version_shown_after_the_checks_gives_an_error(table_at_rest, older_table):
    opened = open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)
    for index in range(len(table_at_rest.manifest.files)):
        shutil.copy(older_table.path(index), table_at_rest.path(index))
    with pytest.raises(TamperedDataError), decrypting("people"):
        opened.to_table()


def test_file_removed_after_the_checks_gives_an_error(table_at_rest):
    opened = open_table(table_at_rest.directory, table_at_rest.keys(), manifest=table_at_rest.manifest)
    table_at_rest.path(3).unlink()
    with pytest.raises(TamperedDataError), decrypting("people"):
        opened.to_table()
