"""A released table reads like any dataset, for the released columns and for nothing else."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from strongroom.envelope.keys import DataKey, DatasetKeys, InvalidKeyError, MissingKeyError
from strongroom.envelope.manifest import sign_manifest
from strongroom.envelope.parquet_crypto import connection, give_up
from strongroom.envelope.table import (
    Layout,
    UnknownColumnError,
    WithheldColumnError,
    describe_schema,
    open_table,
    write_table,
)

TABLE = pa.table(
    {
        "id": range(1000),
        "city": [f"city {i % 7}" for i in range(1000)],
        "salary": [i * 10.0 for i in range(1000)],
        "home": [{"street": str(i), "number": i} for i in range(1000)],
    }
)
DEK = DataKey.generate()


def keys(*columns):
    return DatasetKeys.from_dek(DEK, dataset="people", version=2, columns=columns or TABLE.column_names)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, owner):
    from datetime import UTC, datetime

    directory = tmp_path_factory.mktemp("people") / "ds"
    entries = write_table(TABLE, directory, keys(), layout=Layout(row_group_rows=250, part_bytes=4000))
    manifest = sign_manifest(
        dataset="people",
        version=2,
        kind="table",
        schema=describe_schema(TABLE.schema),
        files=entries,
        custody="memory:owner",
        wrapped_key="none",
        created=datetime.now(UTC),
        owner=owner,
    )
    assert len(entries) > 1
    return directory, manifest


def test_output_of_a_job_reads_back(stored):
    directory, manifest = stored
    assert open_table(directory, keys(), manifest=manifest).to_table().equals(TABLE)


def test_batches_of_a_reader_are_written_as_they_come(tmp_path):
    reader = pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(max_chunksize=100))
    (entry,) = write_table(reader, tmp_path / "out", keys())
    assert entry.rows == 1000


def test_only_released_columns_are_there(stored):
    directory, manifest = stored
    opened = open_table(directory, keys("id", "city"), manifest=manifest)
    assert opened.schema.names == ["id", "city"]
    assert opened.to_table().equals(TABLE.select(["id", "city"]))


def test_withheld_column_is_refused_by_name_before_any_read(stored):
    directory, manifest = stored
    with pytest.raises(WithheldColumnError, match=r"\['salary', 'home'\] of people@2 were not released") as refused:
        open_table(directory, keys("id", "city"), manifest=manifest, columns=["id", "salary", "home"])
    assert "['id', 'city']" in refused.value.hint


def test_withheld_column_cannot_be_filtered_by_either(stored):
    """Counting rows by a withheld column would reveal it as surely as reading it."""
    directory, manifest = stored
    opened = open_table(directory, keys("id"), manifest=manifest)
    with pytest.raises(pa.ArrowInvalid, match="No match for FieldRef"):
        opened.count_rows(filter=ds.field("salary") > 100)


def test_unknown_column_is_told_apart_from_a_withheld_one(stored):
    directory, manifest = stored
    for columns in (["nope"], [], ["id", "id"]):
        with pytest.raises(UnknownColumnError):
            open_table(directory, keys("id"), manifest=manifest, columns=columns)


def test_no_released_column_at_all_is_refused(stored):
    directory, manifest = stored
    footer = keys("id").key("people@2/footer")
    with pytest.raises(WithheldColumnError, match="no column"):
        open_table(directory, DatasetKeys("people", 2, {"people@2/footer": footer}), manifest=manifest)


def test_columns_come_in_the_order_asked_for(stored):
    directory, manifest = stored
    assert open_table(directory, keys(), manifest=manifest, columns=["salary", "id"]).schema.names == ["salary", "id"]


def test_filters_and_projections_are_pushed_down(stored):
    directory, manifest = stored
    opened = open_table(directory, keys(), manifest=manifest)
    assert opened.to_table(columns=["city"], filter=ds.field("id") < 3)["city"].to_pylist() == [
        "city 0",
        "city 1",
        "city 2",
    ]
    (first, *rest) = opened.get_fragments(filter=ds.field("id") < 3)
    assert rest or first.subset(ds.field("id") < 3).num_row_groups == 1
    assert opened.count_rows() == 1000


def test_statistics_skip_row_groups(stored):
    directory, manifest = stored
    fragments = list(open_table(directory, keys(), manifest=manifest).get_fragments())
    kept = sum(fragment.subset(ds.field("id") == 999).num_row_groups for fragment in fragments)
    assert kept == 1


def test_duckdb_queries_it_without_a_copy_on_disk(stored):
    directory, manifest = stored
    people = open_table(directory, keys("city", "salary"), manifest=manifest)
    rows = (
        duckdb.connect()
        .register("people", people)
        .sql("SELECT city, sum(salary) s FROM people WHERE salary >= 50 GROUP BY city ORDER BY city")
    )
    expected = TABLE.filter(pc.field("salary") >= 50).group_by("city").aggregate([("salary", "sum")]).sort_by("city")
    assert [s for _, s in rows.fetchall()] == expected["salary_sum"].to_pylist()


def test_threads_may_scan_the_same_table(stored):
    from concurrent.futures import ThreadPoolExecutor

    directory, manifest = stored
    opened = open_table(directory, keys(), manifest=manifest)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda low: opened.to_table(filter=ds.field("id") >= low).num_rows, range(0, 1000, 100)))
    assert counts == [1000 - low for low in range(0, 1000, 100)]


def test_keys_given_up_open_nothing_more(stored):
    directory, manifest = stored
    held = keys()
    opened = open_table(directory, held, manifest=manifest)
    give_up(held)
    with pytest.raises((InvalidKeyError, MissingKeyError)):
        opened.to_table()
    with pytest.raises(InvalidKeyError, match="wiped"):
        open_table(directory, held, manifest=manifest)


def test_key_connection_carries_a_handle_and_no_key():
    held = keys("id")
    configuration = connection(held)
    secrets = [held.key(key_id)._secret.hex() for key_id in held.key_ids]
    for text in (configuration.key_access_token, str(configuration.custom_kms_conf), configuration.kms_instance_url):
        assert not any(secret[:16] in text for secret in secrets)


def test_column_without_a_key_is_never_written_in_plaintext(tmp_path):
    """Parquet's key tools would write an unlisted column in plaintext, without a warning."""
    with pytest.raises(MissingKeyError, match="people@2/column/salary"):
        write_table(TABLE, tmp_path / "out", keys("id", "city", "home"))
    assert not list(tmp_path.iterdir())


def test_two_datasets_in_one_process_do_not_mix_their_keys(tmp_path, stored):
    directory, manifest = stored
    other = DatasetKeys.from_dek(DataKey.generate(), dataset="people", version=2, columns=TABLE.column_names)
    write_table(TABLE, tmp_path / "other", other)
    assert open_table(directory, keys(), manifest=manifest).count_rows() == 1000
