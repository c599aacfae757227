"""A model answers from a lent machine, whose agent starts what proves itself, and ends it with the line."""

import pytest
from lent_machines import join, joined, pool
from serving_world import SIMPLE, ask, outputs, simple_world
from small_world import lives, pids, wait_until

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.placement import PlacementError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with simple_world(tmp_path_factory.mktemp("lent-serving")) as made:
        yield made


def test_model_on_a_lent_machine_answers_and_leaves_nothing_running_there(world):
    seen = []
    with joined(join(world, "a")) as agents:
        job = world.serve_job("simple", program=SIMPLE)
        endpoint = world.serve(job, host=pool(world, *agents), on_event=lambda *event: seen.append(event))
        with world.asking(endpoint) as client:
            assert outputs(ask(client, [[1.0, 0.0]]))["score"] == [0.123]
        endpoint.stop()
        assert endpoint.wait(0) is not None
        started = pids(seen, "endpoint")
        assert len(started) == 1
        wait_until(lambda: not any(lives(pid) for pid in started))


def test_machine_refuses_what_is_no_way_to_batch(world):
    with joined(join(world, "b")) as agents:
        job = world.serve_job("simple", program=SIMPLE)
        with pytest.raises(PlacementError, match="is no batch-wait"):
            world.serve(job, host=pool(world, *agents), batch_wait=1e-12)


def test_endpoint_whose_machine_dies_is_told_as_lost(world):
    with joined(join(world, "c")) as agents:
        endpoint = world.serve(world.serve_job("simple", program=SIMPLE), host=pool(world, *agents))
        agents[0].process.kill()
        with pytest.raises(StrongroomError):
            endpoint.wait(60)
        endpoint.stop()
