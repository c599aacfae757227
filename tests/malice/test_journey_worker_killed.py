"""The host kills a worker in mid-job on Spark, and starts another in its place; meanwhile the program talks."""

import os
import signal
import threading

import pytest
from small_world import (
    abandoned,
    expected_answer,
    pids,
    plaintext_in,
    scratch_directories,
    small_world,
)

PROGRAM = """\
import sys, time
from pyspark.sql import functions as F
from strongroom.workload import room

sales, accounts = room.read("sales"), room.read("accounts")

def dawdle(row):
    print(row.customer, file=sys.stderr, flush=True)
    print(row.customer, flush=True)
    time.sleep(0.2)
    return row.amount

print(sales.first())
first = [row.amount for row in sales.collect()]
again = sales.repartition(30).rdd.map(dawdle).collect()
assert sorted(first) == sorted(again), "a task got lost"
joined = sales.join(accounts, "customer").groupBy("region", "segment")
room.write(joined.agg(F.count("*").alias("sales"), F.sum("amount").alias("amount")), "baskets")
"""


@pytest.mark.spark
@pytest.mark.slow
def test_worker_that_is_killed_is_replaced_by_one_that_attests_and_the_answer_is_right(tmp_path):
    before, seen = scratch_directories(), []
    with small_world(tmp_path, lease=60, programs=[PROGRAM.encode()], sql=False) as world:

        def on_event(name, facts):
            seen.append((name, facts))
            if name == "program-started":
                threading.Timer(8, os.kill, (pids(seen, "worker")[0], signal.SIGKILL)).start()

        job = world.write_job(program=PROGRAM, kind="spark", workers=2)
        report = world.run(job, engine="spark", on_event=on_event)
        names = [name for name, _ in seen]
        assert "member-lost" in names[: names.index("program-ended")]
        assert len(pids(seen, "worker")) == 3
        admitted = [facts for name, facts in seen if name == "member-admitted" and facts["role"] == "worker"]
        assert len(admitted) == 3
        assert names.count("worker-keys") == 3
        answer = sorted(world.fetch(report), key=lambda row: (row["region"], row["segment"]))
        assert answer == expected_answer()
        assert abandoned(before) == set()
        assert plaintext_in(world.directory) == []


@pytest.mark.spark
@pytest.mark.slow
def test_worker_that_keeps_being_killed_ends_the_job_with_a_clear_error(tmp_path):
    from strongroom.errors import StrongroomError

    with small_world(tmp_path, lease=60, programs=[PROGRAM.encode()], sql=False) as world:

        def on_event(name, facts):
            if name == "host-started" and facts["role"] == "worker":
                os.kill(facts["pid"], signal.SIGKILL)

        job = world.write_job(program=PROGRAM, kind="spark", workers=1)
        with pytest.raises(StrongroomError, match="the worker ended with signal SIGKILL"):
            world.run(job, engine="spark", on_event=on_event)
