"""The host lets a process run out of storage in the middle of what it writes."""

import psutil
import pytest
from small_world import expected_answer, plaintext_in, small_world

from strongroom.errors import StrongroomError

LITTLE = 1500  # bytes that a file may have: enough for what a process remembers of the ledger, not for an output


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("full"), lease=30) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("role", ["driver", "egress"])
def test_job_that_runs_out_of_storage_says_so_and_leaves_nothing_half_written(world, role):
    outputs = len(world.entries("output"))

    def fill(name, facts):
        if name == "host-started" and facts["role"] == role:
            psutil.Process(facts["pid"]).rlimit(psutil.RLIMIT_FSIZE, (LITTLE, psutil.RLIM_INFINITY))

    with pytest.raises(StrongroomError, match=r"no room left|file too large") as failed:
        world.run(on_event=fill)
    assert failed.value.hint
    assert len(world.entries("output")) == outputs
    newest = max((world.directory / "jobs").iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    written = "outbox" if role == "driver" else "results"
    assert list((newest / written).iterdir()) == []
    assert plaintext_in(world.directory) == []


@pytest.mark.slow
def test_broker_without_room_stops_rather_than_forgets_and_goes_on_when_there_is_room(world):
    report = world.run()
    broker = psutil.Process(world.broker_process.pid)
    broker.rlimit(psutil.RLIMIT_FSIZE, (8192, psutil.RLIM_INFINITY))
    with pytest.raises(StrongroomError):
        world.permit_all(max_uses=50)
    assert world.broker_process.wait(timeout=30) != 0
    world.versions.update(dict.fromkeys(world.versions, 10))  # whatever was decided, newer versions count
    world.start_broker()
    world.permit("shop")
    assert world.fetch(report) == expected_answer()
