"""The host kills a driver in mid-job: its secrets die with it, and a new one has to prove itself from the beginning."""

import os
import signal

import pytest
from small_world import expected_answer, lives, pids, small_world

from strongroom.jobs.launch.placement import DriverLostError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("retries")) as made:
        yield made


def kill_drivers(seen, *, most):
    def on_event(name, facts):
        seen.append((name, facts))
        killed = sum(name == "placed-again" for name, _ in seen)
        if name == "keys-released" and killed < most:
            os.kill(pids(seen, "driver")[-1], signal.SIGKILL)

    return on_event


def test_job_is_placed_again_with_a_new_driver_a_new_ticket_and_the_right_answer(world):
    seen = []
    report = world.run(on_event=kill_drivers(seen, most=1), retries=2)
    names = [name for name, _ in seen]
    assert names.count("placed-again") == 1
    assert names.count("driver-attested") == 2
    jobs = [facts["job"] for name, facts in seen if name == "submitted"]
    assert len(set(jobs)) == 2
    assert report.job == jobs[1]
    assert len(set(pids(seen, "driver"))) == 2
    assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))
    answer = sorted(world.fetch(report), key=lambda row: (row["region"], row["segment"]))
    assert answer == expected_answer()


def test_driver_that_is_killed_every_time_ends_the_job_with_one_sentence(world):
    seen = []
    with pytest.raises(DriverLostError, match="the driver ended with signal SIGKILL"):
        world.run(on_event=kill_drivers(seen, most=9), retries=1)
    assert len(pids(seen, "driver")) == 2
    assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))


def test_refusal_is_no_reason_to_try_again(world):
    seen = []
    job = world.write_job("withheld", program="SELECT card FROM sales")
    with pytest.raises(Exception, match="card"):
        world.run(job, on_event=lambda *event: seen.append(event), retries=3)
    assert len(pids(seen, "driver")) <= 1
