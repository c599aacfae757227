"""XGBoost and LightGBM learn on two attested workers what they learn on two plain ones, over their own sockets."""

import json
import socket
import subprocess
import sys
from textwrap import dedent

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from learning_world import EXAMPLES, learning_world, run_example, split_by_columns

pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

# The same program as everybody runs it: a tracker, a list of machines, sockets in the clear.
PLAIN = dedent("""
    import ctypes, json, sys
    import duckdb, lightgbm, xgboost
    import strongroom.workload
    program, place, rank, machines, tracker = sys.argv[1:]
    rank = int(rank)

    class Plain:
        size, saved = 2, {}
        def sql(self, text):
            with duckdb.connect() as engine:
                for name in ("biopsies", "findings"):
                    engine.execute(f"CREATE VIEW {name} AS FROM '{place}/{name}.parquet'")
                return engine.sql(text).to_arrow_table()
        def xgboost(self, learn):
            given = json.loads(tracker)
            with xgboost.collective.CommunicatorContext(**given, dmlc_task_id=str(rank)):
                assert xgboost.collective.get_rank() == rank
                return learn()
        def lightgbm(self, learn):
            port = int(machines.split(",")[rank].rpartition(":")[2])
            assert lightgbm.basic._LIB.LGBM_NetworkInit(machines.encode(), port, 60, 2) == 0
            return learn()
        def write(self, table, name):
            self.saved[name] = table.to_pylist()
        def save(self, files, name, card):
            self.saved[name] = {one: data.hex() if isinstance(data, bytes) else data for one, data in files.items()}

    plain = Plain()
    plain.rank = rank
    strongroom.workload.room = plain
    exec(compile(open(program).read(), program, "exec"), {"__name__": "__main__"})
    print("SAID " + json.dumps(plain.saved))
""")


def plain_run(place, tables) -> dict:
    from xgboost.tracker import RabitTracker

    for name, table in tables.items():
        pq.write_table(table, place / f"{name}.parquet")
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    machines = ",".join(f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes)
    for probe in probes:
        probe.close()
    tracker = RabitTracker(n_workers=2, host_ip="127.0.0.1", sortby="task")
    tracker.start()
    program = str(EXAMPLES / "boosting-together" / "program.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PLAIN, program, str(place), str(rank), machines, json.dumps(tracker.worker_args())],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return json.loads(said[0].rpartition("SAID ")[2])


def test_two_workers_boost_what_two_plain_processes_boost(tmp_path):
    tables = split_by_columns()
    plain = plain_run(tmp_path, tables)
    with learning_world(tmp_path, tables=tables) as world:
        report = run_example(world, "boosting-together", engine="torch")
        files = world.fetch_files(report, "model")
        models = {name: bytes(files.open(name).readall()) for name in ("model.ubj", "model.txt")}
        quality = world.fetch(report, "quality")
    assert models["model.ubj"].hex() == plain["model"]["model.ubj"]
    assert models["model.txt"].decode() == plain["model"]["model.txt"]
    assert (quality.to_pylist() if isinstance(quality, pa.Table) else quality) == plain["quality"]
    assert min(row["predicted_right"] for row in plain["quality"]) > 0.95 * tables["findings"].num_rows
