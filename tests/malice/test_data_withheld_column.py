"""A workload that was given some columns reaches for the others."""

from __future__ import annotations

import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.envelope.keys import MissingKeyError
from strongroom.envelope.parquet_crypto import decryption
from strongroom.envelope.table import WithheldColumnError, open_table


def test_withheld_column_is_named(table_at_rest):
    with pytest.raises(WithheldColumnError, match=r"\['salary'\] of people@2 were not released"):
        open_table(
            table_at_rest.directory, table_at_rest.keys("id"), manifest=table_at_rest.manifest, columns=["id", "salary"]
        )


def test_reading_around_the_front_door_gets_no_further(table_at_rest):
    """Straight to Parquet with the keys held: the released column reads, the withheld one has no key."""
    properties = decryption(table_at_rest.keys("id"))
    with pq.ParquetFile(table_at_rest.path(0), decryption_properties=properties) as file:
        assert file.read(columns=["id"]).num_rows == 500
    with (
        pq.ParquetFile(table_at_rest.path(0), decryption_properties=decryption(table_at_rest.keys("id"))) as file,
        pytest.raises((MissingKeyError, OSError)),
    ):
        file.read(columns=["salary"])


def test_statistics_of_a_withheld_column_stay_secret(table_at_rest):
    """Smallest and largest salary stand in the footer, but under the column's key: the footer's key shows neither."""
    properties = decryption(table_at_rest.keys("id"))
    metadata = pq.read_metadata(table_at_rest.path(0), decryption_properties=properties)
    assert metadata.row_group(0).column(0).statistics.max == 499
    footer = pa.BufferOutputStream()
    metadata.write_metadata_file(footer)
    for salary in (30_000, 34_990):
        assert struct.pack("<q", salary) not in footer.getvalue().to_pybytes()
