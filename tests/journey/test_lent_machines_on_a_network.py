"""Jobs on several hosts with a network between them: slow, cut off, killed; and what an eavesdropper sees."""

import os
import signal
import socket
import threading
import time

import pytest
from lent_machines import join, joined, run_on
from lent_network import Capture, lent_network
from small_world import MARKER, SmallWorld, expected_answer, pids, wait_until

from strongroom.parties.operator import Operator

SHUFFLE = """\
from pyspark.sql import functions as F
from strongroom.workload import room

sales, accounts = room.read("sales"), room.read("accounts")
assert len({row.customer for row in sales.repartition(8, "customer").collect()}) == 97
joined = sales.join(accounts, "customer").groupBy("region", "segment")
room.write(joined.agg(F.count("*").alias("sales"), F.sum("amount").alias("amount")), "baskets")
"""

ENDURE = """\
import time
from pyspark.sql import functions as F
from strongroom.workload import room

sales, accounts = room.read("sales"), room.read("accounts")

def dawdle(row):
    time.sleep(0.15)
    return row.amount

again = sales.repartition(32).rdd.map(dawdle).collect()
assert sorted(again) == sorted(row.amount for row in sales.collect()), "a task got lost"
joined = sales.join(accounts, "customer").groupBy("region", "segment")
room.write(joined.agg(F.count("*").alias("sales"), F.sum("amount").alias("amount")), "baskets")
"""


@pytest.fixture(scope="module")
def network():
    with lent_network() as made:
        yield made


@pytest.fixture(scope="module")
def world(tmp_path_factory, network):
    """The broker stands on this end of the bridge, where all hosts reach it."""
    made = SmallWorld.make(tmp_path_factory.mktemp("network") / "world", lease=60)
    running = Operator(made.platform).start_broker(
        made.store, listen=f"{network.address}:0", log=made.directory / "broker.log"
    )
    made.broker, made.broker_process, made.broker_url = running, running.process, running.url
    made.start_broker = lambda: made.broker_url
    try:
        yield made.open(programs=[SHUFFLE.encode(), ENDURE.encode()])
    finally:
        made.close()


def lend(world, network, name, **more):
    return join(world, name, listen=f"{network.add(name)}:0", within=network.within(name), **more)


def answer_of(world, report):
    return sorted(world.fetch(report), key=lambda row: (row["region"], row["segment"]))


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_job_across_hosts_one_of_them_slow_shows_nothing_to_an_eavesdropper(world, network):
    job = world.write_job("shuffle", program=SHUFFLE, kind="spark", workers=2)
    with joined(lend(world, network, "a", most=2), lend(world, network, "b"), lend(world, network, "c")) as agents:
        network.slow("c")
        capture = Capture(network, "a", "b", "c", texts=(MARKER.encode(), MARKER[:12].encode("utf-16-le"), b"in clear"))
        seen = []
        report = run_on(world, agents, job, engine="spark", on_event=lambda *event: seen.append(event))
        assert answer_of(world, report) == expected_answer()
        assert capture.bytes > 500_000, "a capture of nothing proves nothing"
        assert network.lost_packets("c") > 0, "the slow wire was none"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            control.sendto(b"this stands in clear", agents[0].form.endpoint)
        wait_until(lambda: capture.found)
        capture.close()
        assert capture.found == {b"in clear"}
        assert len(pids(seen, "worker")) == 2


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_job_goes_on_with_the_rest_when_one_host_is_killed_and_another_cut_off(world, network):
    job = world.write_job("endure", program=ENDURE, kind="spark", workers=2)
    # The driver goes to d, the workers to e and f, egress to g; then e's worker to f, and both of f's to g.
    with joined(*(lend(world, network, name, most=1 if name == "d" else 3) for name in "defg")) as agents:
        seen, started = [], time.monotonic()

        def on_event(name, facts):
            seen.append((name, facts, time.monotonic() - started))
            if name == "program-started":
                threading.Timer(3, os.kill, (agents[1].process.pid, signal.SIGKILL)).start()
                threading.Timer(12, network.cut, ("f",)).start()

        report = run_on(world, agents, job, engine="spark", on_event=on_event)
        assert answer_of(world, report) == expected_answer()
        lost = {facts["role"]: facts["why"] for name, facts, _ in seen if name == "host-lost"}
        assert set(lost) == {agents[1].address, agents[2].address}
        assert "nothing came" in lost[agents[2].address]
        admitted = [facts for name, facts, _ in seen if name == "member-admitted" and facts["role"] == "worker"]
        assert len(admitted) >= 4, "a worker that took another's place did not attest"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_driver_that_is_cut_off_is_given_up_in_time_and_the_job_placed_again(world, network):
    with joined(lend(world, network, "h", most=2), lend(world, network, "i")) as agents:
        seen, started = [], time.monotonic()

        def on_event(name, facts):
            seen.append((name, facts))
            if name == "driver-attested" and not cut:
                cut.append(name)
                network.cut("h")

        cut = []
        report = run_on(world, agents, on_event=on_event, retries=1)
        reasons = [facts["reason"] for name, facts in seen if name == "placed-again"]
        assert len(reasons) == 1
        assert "nothing came from" in reasons[0]
        assert answer_of(world, report) == expected_answer()
        assert time.monotonic() - started < 120
