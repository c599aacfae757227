"""A program is rehearsed at home on plain tables, and fails there as it would fail anywhere."""

from __future__ import annotations

import traceback

import pyarrow as pa
import pytest

from strongroom.workload.rehearsal import rehearse

PROGRAM = b"""
from strongroom.workload import room

room.write(room.sql("SELECT station, avg(load) AS load FROM readings GROUP BY station"), "loads")
room.save({"weights.json": "{}"}, "model", card={})
"""


def test_tables_and_files_come_back_by_name():
    written = rehearse(PROGRAM, tables={"readings": pa.table({"station": ["a", "a", "b"], "load": [1, 3, 5]})})
    assert sorted(written["loads"].to_pylist(), key=str) == [
        {"station": "a", "load": 2.0},
        {"station": "b", "load": 5.0},
    ]
    assert written["model"]["weights.json"] == b"{}"


def test_traceback_shows_the_programs_own_line(tmp_path, monkeypatch):
    """And not that of another file called program.py, which every example is."""
    (tmp_path / "program.py").write_text("another = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError) as failed:
        rehearse(b"share = 1 / 0  # of nothing\n", tables={})
    told = "".join(traceback.format_exception(failed.value))
    assert "share = 1 / 0  # of nothing" in told
    assert "another" not in told
