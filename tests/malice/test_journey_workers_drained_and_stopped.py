"""The host drains one worker, and stops another without ending it, while a program runs on Spark."""

import os
import signal
import threading
import time

import pytest
from small_world import changed_package, expected_answer, pids, small_world, stop

PROGRAM = """\
import time
from pyspark.sql import functions as F
from strongroom.workload import room

sales, accounts = room.read("sales"), room.read("accounts")
mapped = room.spark.sparkContext.accumulator(0)

def count(row):
    mapped.add(1)
    return row.region, row.amount

shuffled = sales.rdd.map(count).groupByKey(6).mapValues(len)
assert dict(shuffled.collect()) == {"north": 200, "south": 200}
before = mapped.value
scheduler = room.spark.sparkContext._jsc.sc().schedulerBackend()
there = str(scheduler.getExecutorIds())
room.write(sales, "mark")  # the host waits for this, and drains a worker
until = time.monotonic() + 90
while str(scheduler.getExecutorIds()) == there:
    assert time.monotonic() < until, f"executors {there} are still there"
    time.sleep(0.5)
assert dict(shuffled.collect()) == {"north": 200, "south": 200}
assert mapped.value == before, "the drained worker's blocks were lost"

def dawdle(row):
    time.sleep(0.1)
    return row.amount

again = sales.repartition(24).rdd.map(dawdle).collect()  # a worker is stopped
assert len(again) == 400, "a task got lost"
joined = sales.join(accounts, "customer").groupBy("region", "segment")
room.write(joined.agg(F.count("*").alias("sales"), F.sum("amount").alias("amount")), "baskets")
"""


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_drained_worker_hands_over_its_blocks_and_a_silent_one_is_replaced(tmp_path):
    package = changed_package(
        tmp_path / "package",
        {
            "workload/pulse.py": ("WORKER_SILENCE_SECONDS = 45.0", "WORKER_SILENCE_SECONDS = 25.0"),
            "workload/worker.py": (  # a busy machine, on which whoever leaves takes its time
                "        self.channel.close()\n        discard_scratch",
                "        self.channel.close()\n        time.sleep(1)\n        discard_scratch",
            ),
        },
    )
    seen = []
    with small_world(tmp_path, lease=60, package=package, programs=[PROGRAM.encode()], sql=False) as world:

        def drain_after_mark():
            while not any(world.directory.rglob("mark-*")):
                time.sleep(0.2)
            os.kill(pids(seen, "worker")[0], signal.SIGTERM)

        def on_event(name, facts):
            seen.append((name, facts))
            if name == "program-started":
                threading.Thread(target=drain_after_mark, daemon=True).start()
            if name == "host-ended" and facts["role"] == "worker" and facts["code"] == 0 and not stopped:
                stopped.append(pids(seen, "worker")[1])
                stop(stopped[0])

        stopped = []
        job = world.write_job(program=PROGRAM, kind="spark", workers=2, outputs=("mark", "baskets"))
        report = world.run(job, engine="spark", on_event=on_event)
        names = [name for name, _ in seen]
        during = names[: names.index("program-ended")]
        assert "worker-leaving" in during
        lost = [facts["reason"] for name, facts in seen if name == "member-lost"]
        assert len(lost) == 1, "only the stopped worker was lost"
        assert "25 s" in lost[0]
        ended = {facts["pid"]: facts["code"] for name, facts in seen if name == "host-ended"}
        assert ended[pids(seen, "worker")[0]] == 0
        assert ended[stopped[0]] == -signal.SIGKILL
        assert len(pids(seen, "worker")) == 4
        admitted = [facts for name, facts in seen if name == "member-admitted" and facts["role"] == "worker"]
        assert len(admitted) == 4, "every successor attested"
        answer = sorted(world.fetch(report), key=lambda row: (row["region"], row["segment"]))
        assert answer == expected_answer()
