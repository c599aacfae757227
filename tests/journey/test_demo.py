"""The demo tells the whole journey and every refusal, on each engine; what it prints is what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import strongroom.demo
from strongroom.demo.data import OWNERS, lay_out

NUMBERS = ("departures", "mean_delay", "mean_wind", "mean_age")
CASES = {
    "a worker whose code was changed by one byte": "measurement",
    "a program that the owners did not approve": "program",
    "a column that a policy withholds": "column",
    "replayed evidence": "REPORTDATA",
    "a dataset revoked while the job runs": "revoked",
    "a store rolled back to before the revocation": "rolled back",
}


def play(tmp_path: Path, *arguments: str, seconds: int) -> dict[str, object]:
    command = [sys.executable, "-m", "strongroom", "demo", "--json", "--directory", str(tmp_path / "world"), *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain_answer(tmp_path_factory) -> list[dict[str, object]]:
    """Return what the demo's query says of the plain tables, by an engine that knows nothing of Strongroom."""
    with duckdb.connect() as plain:
        for table in OWNERS.values():
            source = lay_out(table, tmp_path_factory.mktemp(table))
            plain.execute(f"CREATE TABLE {table} AS SELECT * FROM read_csv('{source}', nullstr=['', 'NA'])")
        query = (Path(strongroom.demo.__file__).parent / "programs" / "delays.sql").read_text()
        return plain.execute(query).to_arrow_table().to_pylist()


def assert_told(
    told: dict[str, object], plain_answer: list[dict[str, object]], *, unwritten: frozenset[str] = frozenset()
) -> None:
    assert told["simulated"] is True
    assert told["ledger"]["verified"] is True
    plain = {(row["carrier"], row["poor_visibility"]): row for row in plain_answer}
    assert len(plain) > len(told["result"]) > 20  # small groups are held back, as the owners ask
    for row in told["result"]:
        true = plain[row["carrier"], row["poor_visibility"]]
        assert [row[name] for name in NUMBERS] == pytest.approx([true[name] for name in NUMBERS], rel=1e-9)

    assert all(step["seconds"] >= 0 for step in told["steps"])
    refusals = {case["case"]: case for case in told["refusals"]}
    assert set(refusals) == set(CASES)
    for case, word in CASES.items():
        assert refusals[case]["refused"] is True, case
        assert any(word.lower() in reason.lower() for reason in refusals[case]["reasons"]), refusals[case]
        assert (refusals[case]["ledger_entry"] < 0) == (case in unwritten), case


def test_the_demo_on_the_embedded_engine_tells_the_journey_and_refuses_every_attack(tmp_path, plain_answer):
    told = play(tmp_path, "--engine", "embedded", seconds=240)
    assert_told(told, plain_answer)
    assert (tmp_path / "world" / "strongroom-demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_demo_tells_the_same_where_the_simulated_tee_is_a_trust_domain(tmp_path, plain_answer):
    """But for one entry: there is no counter, so an older store fails the custodians' memory before it is opened."""
    unwritten = frozenset({"a store rolled back to before the revocation"})
    assert_told(play(tmp_path, "--engine", "embedded", "--tee", "tdx", seconds=240), plain_answer, unwritten=unwritten)


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_on_spark_trains_a_model_on_three_owners_data(tmp_path, plain_answer):
    told = play(tmp_path, seconds=860)
    assert_told(told, plain_answer)
    measures = {row["measure"]: row["value"] for row in told["results"]["model"]}
    assert measures["area under ROC"] > 0.6


def test_nothing_the_demo_leaves_on_disk_holds_plaintext(tmp_path):
    play(tmp_path, "--engine", "embedded", "--no-refusals", seconds=120)
    # Strings that stand in the owners' tables and nowhere else.
    known = (
        b"N14228",
        b"EMBRAER-BOMBARDIER",
        b"FIXED WING MULTI ENGINE",
        b"Fixed wing multi engine",
        b"2013-01-01T10:00:00Z",
    )
    leaks = [
        str(path)
        for path in (tmp_path / "world").rglob("*")
        if path.is_file() and path.suffix != ".csv" and any(word in path.read_bytes() for word in known)
    ]
    assert leaks == []
