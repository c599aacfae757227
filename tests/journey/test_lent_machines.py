"""A job on machines that are lent: their agents start what proves itself, and end it with the line."""

import os
import signal

import pytest
from lent_machines import join, joined, run_on
from small_world import expected_answer, lives, pids, small_world, wait_until

from strongroom.jobs.launch.placement import PlacementError
from strongroom.jobs.launch.standalone.placement import Room, choose_host


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("lent"), lease=10) as made:
        yield made


def test_job_runs_on_lent_machines_and_leaves_nothing_running_there(world):
    seen = []
    with joined(join(world, "a", most=1), join(world, "b")) as agents:
        report = run_on(world, agents, on_event=lambda *event: seen.append(event))
        answer = sorted(world.fetch(report), key=lambda row: (row["region"], row["segment"]))
        assert answer == expected_answer()
        started = pids(seen, "driver") + pids(seen, "egress")
        assert len(started) == 2
        wait_until(lambda: not any(lives(pid) for pid in started))
    assert "job came" in "".join(agents[0].said)
    assert "job came" in "".join(agents[1].said)


def test_job_moves_to_another_machine_when_that_of_its_driver_dies(world):
    seen = []

    def on_event(name, facts):
        seen.append((name, facts))
        if name == "keys-released" and agents[0].process.poll() is None:
            os.kill(agents[0].process.pid, signal.SIGKILL)

    with joined(join(world, "c", most=1), join(world, "d")) as agents:
        report = run_on(world, agents, on_event=on_event, retries=1)
    reasons = [facts["reason"] for name, facts in seen if name == "placed-again"]
    assert len(reasons) == 1
    assert "its machine was lost" in reasons[0]
    assert sorted(world.fetch(report), key=lambda row: (row["region"], row["segment"])) == expected_answer()


def test_machines_that_are_not_there_are_named_in_one_sentence(world):
    agent = join(world, "e")
    agent.close()
    with pytest.raises(PlacementError, match=rf"no machine is there: cannot reach {agent.address}"):
        run_on(world, [agent])


@pytest.mark.parametrize(
    ("rooms", "role", "chosen"),
    [
        ([None, (2, 0), (9, 0)], "driver", 1),
        ([(2, 2), (2, 1), (4, 1)], "worker", 2),
        ([(2, 1), (2, 1)], "worker", 0),
        ([None, (1, 1)], "egress", None),
    ],
)
def test_driver_goes_to_the_first_machine_and_members_where_there_is_most_room(rooms, role, chosen):
    assert choose_host([room and Room(most=room[0], running=room[1]) for room in rooms], role=role) == chosen
