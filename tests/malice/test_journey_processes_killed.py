"""The host kills a process of a job with SIGKILL, for what it may leave behind or leave undone."""

import os
import signal
import time

import pytest
from small_world import (
    LONG_QUERY,
    abandoned,
    expected_answer,
    lives,
    pids,
    plaintext_in,
    scratch_directories,
    small_world,
)

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.placement import PlacementError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("killed"), lease=30) as made:
        yield made


def test_death_of_the_driver_is_reported_at_once_and_leaves_no_plaintext(world):
    before, seen = scratch_directories(), []

    def kill(name, facts):
        seen.append((name, facts))
        if name == "program-started":
            os.kill(pids(seen, "driver")[0], signal.SIGKILL)

    started = time.monotonic()
    with pytest.raises(PlacementError, match="the driver ended with signal SIGKILL"):
        world.run(world.write_job(program=LONG_QUERY), on_event=kill)
    assert time.monotonic() - started < 60
    assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))
    left = abandoned(before)
    assert plaintext_in(world.directory, *left) == []
    # What it could not remove, the next job's processes do.
    world.run()
    assert left & scratch_directories() == set()


def test_egress_that_is_killed_is_replaced_and_the_answer_is_right(world):
    seen = []

    def kill(name, facts):
        seen.append((name, facts))
        if name == "member-admitted" and len(pids(seen, "egress")) == 1:
            os.kill(pids(seen, "egress")[0], signal.SIGKILL)

    report = world.run(on_event=kill)
    assert len(pids(seen, "egress")) == 2
    assert world.fetch(report) == expected_answer()
    assert plaintext_in(world.directory) == []


@pytest.mark.slow
def test_egress_that_keeps_dying_is_an_error_and_no_hang(world):
    def kill(name, facts):
        if name == "host-started" and facts["role"] == "egress":
            os.kill(facts["pid"], signal.SIGKILL)

    with pytest.raises(StrongroomError, match="the egress ended with signal SIGKILL"):
        world.run(on_event=kill)


@pytest.mark.slow
def test_broker_that_is_killed_leaves_no_plaintext_and_no_key(world):
    report = world.run()
    world.kill_broker()
    assert plaintext_in(world.directory) == []
    world.start_broker()
    assert world.fetch(report) == expected_answer()
