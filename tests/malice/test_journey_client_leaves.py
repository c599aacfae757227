"""The analyst's client leaves, or stops listening, as soon as it has handed over the job."""

from contextlib import closing
from pathlib import Path

import pytest
from small_world import expected_answer, small_world, wait_until


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [True, False])
def test_job_ends_well_without_a_listener_and_its_result_can_be_fetched(tmp_path, leaves):
    with small_world(tmp_path) as world:
        analyst, door = world.analyst, world.analyst_door()
        submitted = analyst.submit(world.write_job(), broker=door)
        launcher = analyst.launch(submitted, host=world.platform, engine="embedded", directory=world.job_directory())
        try:
            channel = analyst.attest_driver(submitted, launcher.start_address)
            analyst.hand_over(submitted, channel, broker=door)
            if leaves:
                channel.close()
            wait_until(lambda: not launcher.running(), seconds=60, why="the driver waits for its client")
        finally:
            launcher.stop()
        with closing(analyst.attest_broker(world.broker_url)) as broker:
            place = Path(broker.fetch_result(submitted.digest, "baskets", analyst.key).location)
            table = analyst.fetch(broker=broker, digest=submitted.digest, output="baskets", location=place)
        assert table.to_pylist() == expected_answer()
