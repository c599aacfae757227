"""Whatever an owner has, CSV, JSON lines, Parquet, ORC or Arrow, becomes the same encrypted table."""

from __future__ import annotations

import bz2
import gzip
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from strongroom.envelope.manifest import Column, read_manifest, verify_manifest
from strongroom.envelope.names import BadNameError
from strongroom.envelope.sources import SourceError
from strongroom.envelope.table import Layout, TableError, UnknownColumnError, encrypt_table, open_table
from strongroom.errors import EnvelopeError

ROWS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "name": ["ann", None, "zoë"],
        "paid": pa.array([Decimal("1.50"), Decimal("2.00"), None], pa.decimal128(12, 2)),
        "day": pa.array([date(2024, 1, 1), None, date(2024, 2, 29)]),
    }
)


@pytest.fixture
def encrypt(tmp_path, owner, custody):
    def run(sources, target="out", dataset="d", **options):
        manifest = encrypt_table(
            sources, tmp_path / target, dataset=dataset, version=1, owner=owner, custody=custody, **options
        )
        return manifest, open_table(tmp_path / target, custody.release(manifest), manifest=manifest).to_table()

    return run


def test_parquet_round_trips(tmp_path, encrypt):
    pq.write_table(ROWS, tmp_path / "in.parquet")
    manifest, table = encrypt(tmp_path / "in.parquet")
    assert table.equals(ROWS)
    assert manifest.rows == 3
    assert manifest.schema[2] == Column(name="paid", type="decimal128(12, 2)")


def test_orc_round_trips(tmp_path, encrypt):
    pyarrow.orc.write_table(ROWS, tmp_path / "in.orc")
    assert encrypt(tmp_path / "in.orc")[1].to_pylist() == ROWS.to_pylist()


def test_arrow_round_trips(tmp_path, encrypt):
    pyarrow.feather.write_feather(ROWS, tmp_path / "in.arrow")
    assert encrypt(tmp_path / "in.arrow")[1].equals(ROWS)


def test_csv_keeps_empty_text_apart_from_no_value(tmp_path, encrypt):
    (tmp_path / "in.csv").write_text('id,name,note\n1,,"a\nb"\n2,"",NA\n3,zoë,"x,y"\n')
    rows = encrypt(tmp_path / "in.csv")[1].to_pylist()
    assert [row["name"] for row in rows] == [None, "", "zoë"]
    assert [row["note"] for row in rows] == ["a\nb", "NA", "x,y"]


def test_csv_texts_that_mean_no_value_are_named_by_the_owner(tmp_path, encrypt):
    (tmp_path / "in.csv").write_text("id,delay\n1,5\n2,NA\n3,\n")
    assert encrypt(tmp_path / "in.csv", nulls=("", "NA"))[1]["delay"].to_pylist() == [5, None, None]


def test_csv_types_can_be_named(tmp_path, encrypt):
    (tmp_path / "in.csv").write_text("zip,paid,day\n01234,1.5,2024-02-29\n")
    types = {"zip": "string", "paid": "decimal128(12, 2)", "day": "date32"}
    assert encrypt(tmp_path / "in.csv", types=types)[1].to_pylist() == [
        {"zip": "01234", "paid": Decimal("1.50"), "day": date(2024, 2, 29)}
    ]


def test_value_that_does_not_fit_the_inferred_type_stops_the_conversion(tmp_path, encrypt):
    (tmp_path / "in.csv").write_text("id\n" + "123456789\n" * 1_000_000 + "n/a\n")
    with pytest.raises(SourceError, match="n/a") as refused:
        encrypt(tmp_path / "in.csv")
    assert "types=" in refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_column_empty_for_a_long_time_can_hold_text_later(tmp_path, encrypt):
    (tmp_path / "in.csv").write_text("id,note\n" + "123456789,\n" * 900_000 + "1,late\n")
    table = encrypt(tmp_path / "in.csv")[1]
    assert table["note"].null_count == 900_000
    assert table["note"][-1].as_py() == "late"


@pytest.mark.parametrize(("suffix", "squeeze"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_csv_is_read(tmp_path, encrypt, suffix, squeeze):
    (tmp_path / f"in.csv{suffix}").write_bytes(squeeze(b"id,name\n1,ann\n"))
    assert encrypt(tmp_path / f"in.csv{suffix}")[1].to_pylist() == [{"id": 1, "name": "ann"}]


def test_json_lines_keep_nested_values(tmp_path, encrypt):
    (tmp_path / "in.jsonl").write_text('{"id":1,"tags":["a","b"],"at":{"x":1.5}}\n{"id":2,"tags":[],"at":null}\n')
    manifest, table = encrypt(tmp_path / "in.jsonl")
    assert table.to_pylist() == [
        {"id": 1, "tags": ["a", "b"], "at": {"x": 1.5}},
        {"id": 2, "tags": [], "at": None},
    ]
    assert manifest.schema[1].type == "list<element: string>"


def test_views_become_plain_text_and_seconds_become_milliseconds(tmp_path, encrypt):
    """Other engines cannot read view types, and Parquet has no seconds: the manifest says what readers will see."""
    at = datetime(2024, 1, 1, tzinfo=UTC)
    table = pa.table({"t": pa.array(["a"], pa.string_view()), "s": pa.array([at], pa.timestamp("s", "UTC"))})
    pyarrow.feather.write_feather(table, tmp_path / "in.arrow", compression="uncompressed")
    manifest, read = encrypt(tmp_path / "in.arrow")
    assert [column.type for column in manifest.schema] == ["string", "timestamp[ms, tz=UTC]"]
    assert read.to_pylist() == [{"t": "a", "s": at}]


def test_columns_are_chosen_and_renamed(tmp_path, encrypt):
    (tmp_path / "in.csv").write_text('"Price, EUR",id,secret\n5,1,x\n')
    manifest, table = encrypt(tmp_path / "in.csv", rename={"Price, EUR": "price"}, columns=["id", "price"])
    assert manifest.columns == ("id", "price")
    assert table.to_pylist() == [{"id": 1, "price": 5}]


def test_several_files_become_one_table(tmp_path, encrypt):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("id,x\n1,1\n")
    (tmp_path / "in" / "b.csv").write_text("x,id\n2,2\n")
    (tmp_path / "in" / "_SUCCESS").write_text("")
    assert encrypt(tmp_path / "in")[1].to_pylist() == [{"id": 1, "x": 1}, {"id": 2, "x": 2}]


def test_a_table_is_cut_into_row_groups_and_files(tmp_path, encrypt, custody):
    pq.write_table(pa.table({"id": range(1000), "text": [str(i) * 50 for i in range(1000)]}), tmp_path / "in.parquet")
    layout = Layout(row_group_rows=100, part_bytes=4096)
    manifest, table = encrypt(tmp_path / "in.parquet", layout=layout)
    assert len(manifest.files) > 2
    assert table["id"].to_pylist() == list(range(1000))
    opened = open_table(tmp_path / "out", custody.release(manifest), manifest=manifest)
    groups = [group.num_rows for fragment in opened.get_fragments() for group in fragment.row_groups]
    assert set(groups) == {100}
    assert sum(entry.rows for entry in manifest.files) == manifest.rows == 1000


def test_memory_bound_cuts_row_groups_of_wide_rows(tmp_path, encrypt, custody):
    pq.write_table(pa.table({"text": ["x" * 1000] * 1000}), tmp_path / "in.parquet", row_group_size=100)
    manifest, _ = encrypt(tmp_path / "in.parquet", layout=Layout(row_group_bytes=250_000))
    opened = open_table(tmp_path / "out", custody.release(manifest), manifest=manifest)
    assert sum(len(fragment.row_groups) for fragment in opened.get_fragments()) >= 3


def test_table_without_rows_keeps_its_columns(tmp_path, encrypt):
    pq.write_table(ROWS.slice(0, 0), tmp_path / "in.parquet")
    manifest, table = encrypt(tmp_path / "in.parquet")
    assert manifest.rows == 0
    assert table.schema.equals(ROWS.schema)


def test_progress_counts_source_bytes_up_to_their_total(tmp_path, encrypt):
    (tmp_path / "in.csv").write_text("id,x\n" + "1,2\n" * 100_000)
    seen = []
    encrypt(tmp_path / "in.csv", progress=lambda done, total: seen.append((done, total)))
    size = (tmp_path / "in.csv").stat().st_size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_manifest_in_the_directory_is_the_one_returned(tmp_path, encrypt, owner):
    pq.write_table(ROWS, tmp_path / "in.parquet")
    manifest, _ = encrypt(tmp_path / "in.parquet")
    assert verify_manifest(read_manifest(tmp_path / "out"), owner=owner.party) == manifest


def test_files_hold_no_plaintext_and_differ_each_time(tmp_path, encrypt):
    pq.write_table(pa.table({"secretcolumn": ["marker-in-the-data"] * 9}), tmp_path / "in.parquet", compression="none")
    encrypt(tmp_path / "in.parquet", target="one")
    encrypt(tmp_path / "in.parquet", target="two")
    one, two = ((tmp_path / name / "part-00000.parquet").read_bytes() for name in ("one", "two"))
    assert one[:4] == one[-4:] == b"PARE"
    assert one != two
    for plain in (b"marker", b"secretcolumn_", b"ARROW:schema"):
        assert plain not in one


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.xyz", b"a\n1\n", "format"),
        ("in.parquet.gz", b"", "format"),
        ("in.csv", b"", "empty"),
        ("in.parquet", b"PAR1 nonsense", "cannot read"),
        ("in.orc", b"nonsense", "cannot read"),
        ("in.arrow", b"nonsense", "cannot read"),
        ("in.csv", b"a,b\n1\n", "cannot read"),
        ("in.csv", b"a,a\n1,2\n", "every name once"),
        ("in.csv", b'"a;b"\n1\n', "own key"),
        ("in.jsonl", b"[1,2]\n", "cannot read"),
        ("in.csv.gz", b"not gzip", "cannot read"),
    ],
)
def test_bad_source_is_refused_and_nothing_is_left(tmp_path, encrypt, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EnvelopeError, match=message) as refused:
        encrypt(tmp_path / name)
    assert refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_missing_source_is_refused(tmp_path, encrypt):
    with pytest.raises(SourceError, match="No such file"):
        encrypt(tmp_path / "absent.csv")
    with pytest.raises(SourceError, match="no source"):
        encrypt([])


def test_files_with_other_columns_are_refused(tmp_path, encrypt):
    (tmp_path / "a.csv").write_text("id,x\n1,1\n")
    (tmp_path / "b.csv").write_text("id,y\n1,1\n")
    with pytest.raises(SourceError, match=r"differ in columns \['x', 'y'\]"):
        encrypt([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_files_with_other_types_are_refused(tmp_path, encrypt):
    (tmp_path / "a.csv").write_text("id\n1\n")
    (tmp_path / "b.csv").write_text("id\nx\n")
    with pytest.raises(SourceError, match="'id' is string, expected int64"):
        encrypt([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_unknown_columns_types_and_names_are_refused(tmp_path, encrypt):
    (tmp_path / "a.csv").write_text("id\n1\n")
    with pytest.raises(UnknownColumnError, match="nope"):
        encrypt(tmp_path / "a.csv", columns=["nope"])
    with pytest.raises(UnknownColumnError, match="nope"):
        encrypt(tmp_path / "a.csv", rename={"nope": "id"})
    with pytest.raises(SourceError, match="lacks"):
        encrypt(tmp_path / "a.csv", types={"nope": "string"})
    with pytest.raises(SourceError, match="unknown type 'text'"):
        encrypt(tmp_path / "a.csv", types={"id": "text"})
    with pytest.raises(TableError):
        encrypt(tmp_path / "a.csv", columns=[])
    with pytest.raises(BadNameError):
        encrypt(tmp_path / "a.csv", rename={"id": "a:b"})
    with pytest.raises(BadNameError, match="no policy could name"):
        encrypt(tmp_path / "a.csv", dataset="output.result")


def test_column_that_reads_as_a_field_of_another_is_refused(tmp_path, encrypt):
    pq.write_table(pa.table({"a": [{"b": 1}], "a.b": [1]}), tmp_path / "in.parquet")
    with pytest.raises(TableError, match=r"'a\.b' reads as a field inside column 'a'"):
        encrypt(tmp_path / "in.parquet")


def test_existing_target_is_never_overwritten(tmp_path, encrypt):
    (tmp_path / "a.csv").write_text("id\n1\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(EnvelopeError, match="exists already"):
        encrypt(tmp_path / "a.csv")
    assert not list((tmp_path / "out").iterdir())
