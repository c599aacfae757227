"""The number of calls to a key service does not depend on files, columns or processes."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.envelope import cost
from strongroom.envelope.cost import KeyServiceCalls
from strongroom.envelope.files import encrypt_files
from strongroom.envelope.manifest import rewrap
from strongroom.envelope.table import Layout, encrypt_table, open_table


@pytest.mark.parametrize("parts", [1, 6])
def test_calls_are_as_stated_whatever_the_number_of_files(tmp_path, owner, custody, other_custody, parts):
    table = pa.table({f"c{i}": range(parts * 10) for i in range(5)})
    pq.write_table(table, tmp_path / "in.parquet")
    manifest = encrypt_table(
        tmp_path / "in.parquet",
        tmp_path / "out",
        dataset="d",
        version=1,
        owner=owner,
        custody=custody,
        layout=Layout(row_group_rows=10, part_bytes=1),
    )
    files, columns = len(manifest.files), len(manifest.columns)
    assert files == parts
    assert _calls(custody) == cost.encrypting(files=files, columns=columns)
    keys = custody.release(manifest)
    expected = cost.encrypting(files=files, columns=columns) + cost.unwrapping_for_registration()
    assert _calls(custody) == expected
    for _ in range(3):
        assert open_table(tmp_path / "out", keys, manifest=manifest).to_table().num_rows == parts * 10
    assert _calls(custody) == expected + cost.opening(files=files, columns=columns, processes=3)
    rewrap(manifest, old=custody, new=other_custody, owner=owner)
    assert _calls(custody) + _calls(other_custody) == expected + cost.rewrapping()


def test_directory_of_files_costs_one_call(tmp_path, owner, custody):
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / "in" / str(i)).write_bytes(b"x")
    encrypt_files(tmp_path / "in", tmp_path / "out", dataset="d", version=1, owner=owner, custody=custody)
    assert _calls(custody) == cost.encrypting(files=20, columns=0)


def _calls(custody):
    return KeyServiceCalls(wraps=custody.wraps, unwraps=custody.unwraps)
