"""The embedded engine over encrypted tables: released columns only, and no answer from changed files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.envelope.custody import create_custody
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.keys import DatasetKeys
from strongroom.envelope.manifest import unwrap_data_key
from strongroom.envelope.table import encrypt_table, open_table
from strongroom.errors import UsageError
from strongroom.statements import SigningKey
from strongroom.workload.embedded import EmbeddedEngine

ROWS = 200_000


@pytest.fixture
def encrypted(tmp_path):
    people = pa.table(
        {"id": range(ROWS), "name": [f"person {i}" for i in range(ROWS)], "age": [i % 90 for i in range(ROWS)]}
    )
    pq.write_table(people, tmp_path / "people.parquet")
    custody = create_custody(f"file:{tmp_path / 'master.key'}", password=lambda: b"a long password")
    owner = SigningKey.generate(name="clinic")
    manifest = encrypt_table(
        tmp_path / "people.parquet",
        tmp_path / "people",
        dataset="people-2024_v1",
        version=1,
        owner=owner,
        custody=custody,
    )
    return tmp_path / "people", manifest, unwrap_data_key(manifest, custody=custody)


def open_columns(encrypted, *columns):
    directory, manifest, dek = encrypted
    keys = DatasetKeys.from_dek(dek, dataset=manifest.dataset, version=1, columns=columns)
    return open_table(directory, keys, manifest=manifest)


def test_sql_reads_released_columns_under_the_name_of_the_dataset(encrypted):
    with EmbeddedEngine({"people-2024_v1": open_columns(encrypted, "id", "age")}) as engine:
        answer = engine.sql('SELECT age, count(*) AS n FROM "people-2024_v1" WHERE id < 180 GROUP BY age ORDER BY age')
        assert answer.num_rows == 90
        assert set(answer["n"].to_pylist()) == {2}


def test_a_withheld_column_does_not_exist(encrypted):
    with EmbeddedEngine({"people": open_columns(encrypted, "id", "age")}) as engine:
        assert engine.sql("SELECT * FROM people LIMIT 1").column_names == ["id", "age"]
        for text in (
            "SELECT name FROM people",
            "SELECT people.name FROM people",
            "SELECT id FROM people ORDER BY name",
        ):
            with pytest.raises(UsageError, match="name"):
                engine.sql(text)


@pytest.mark.parametrize("run", ["sql", "stream"])
def test_a_file_changed_after_opening_gives_an_error_and_no_answer(encrypted, run):
    directory, manifest, _dek = encrypted
    with EmbeddedEngine({"people": open_columns(encrypted, "id", "name", "age")}) as engine:
        [entry] = manifest.files
        path = directory / entry.path
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
        text = "SELECT max(id), max(name), max(age) FROM people"
        with pytest.raises(TamperedDataError, match="does not authenticate"):
            engine.sql(text) if run == "sql" else engine.stream(text).read_all()


def test_a_name_with_a_dot_is_no_way_around(encrypted):
    with EmbeddedEngine({"main.people": open_columns(encrypted, "id")}) as engine:
        with pytest.raises(Exception, match=r"main\.people is not a table"):
            engine.sql("SELECT * FROM main.people")
        assert engine.sql('SELECT count(*) AS n FROM "main.people"').to_pylist() == [{"n": ROWS}]
