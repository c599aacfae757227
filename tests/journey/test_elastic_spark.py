"""Spark moves the number of workers with the load, within what the analyst signed; every one of them attests."""

import pytest
from small_world import expected_answer, small_world

PROGRAM = """\
import time
from pyspark.sql import functions as F
from strongroom.workload import room

spark = room.spark
sales, accounts = room.read("sales"), room.read("accounts")

def dawdle(row):
    time.sleep(1.5)
    return 1

assert spark.range(0, 36, 1, 36).rdd.map(dawdle).sum() == 36  # more than one worker can do soon
scheduler = spark.sparkContext._jsc.sc().schedulerBackend()
grown = scheduler.getExecutorIds().size()
assert grown == 3, f"{grown} executors"
until = time.monotonic() + 60
while scheduler.getExecutorIds().size() > 1:
    assert time.monotonic() < until, "idle workers stay"
    time.sleep(0.5)
joined = sales.join(accounts, "customer").groupBy("region", "segment")
room.write(joined.agg(F.count("*").alias("sales"), F.sum("amount").alias("amount")), "baskets")
"""


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_spark_grows_under_load_and_shrinks_when_idle_within_what_was_signed(tmp_path):
    seen = []
    with small_world(tmp_path, lease=60, programs=[PROGRAM.encode()], sql=False) as world:
        job = world.write_job(program=PROGRAM, kind="spark", workers=1, most_workers=3)
        report = world.run(job, engine="spark", on_event=lambda *event: seen.append(event))
        wanted = [
            facts["count"]
            for name, facts in seen
            if name == "host-said" and facts["event"] == "wanted" and facts.get("role") == "worker"
        ]
        assert (wanted[0], max(wanted), wanted[-1]) == (1, 3, 0)
        ended = [facts["code"] for name, facts in seen if name == "host-ended" and facts["role"] == "worker"]
        assert ended[:2] == [0, 0], "who is let go ends well"
        started = [facts for name, facts in seen if name == "host-started" and facts["role"] == "worker"]
        admitted = [facts for name, facts in seen if name == "member-admitted" and facts["role"] == "worker"]
        assert len(started) == len(admitted) == 3
        assert not [name for name, _ in seen if name == "member-lost"]
        answer = sorted(world.fetch(report), key=lambda row: (row["region"], row["segment"]))
        assert answer == expected_answer()
