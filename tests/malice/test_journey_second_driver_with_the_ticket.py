"""A ticket is used twice: the host starts a second driver for the same job, and it gets the analyst's handover."""

import pytest
from small_world import small_world

from strongroom.errors import StrongroomError


@pytest.mark.slow
def test_second_driver_with_the_same_ticket_gets_no_key(tmp_path):
    with small_world(tmp_path) as world:
        analyst, door = world.analyst, world.analyst_door()
        submitted = analyst.submit(world.write_job(), broker=door)

        def run_again():
            launcher = analyst.launch(
                submitted, host=world.platform, engine="embedded", directory=world.job_directory()
            )
            try:
                channel = analyst.attest_driver(submitted, launcher.start_address)
                analyst.hand_over(submitted, channel, broker=door)
                return analyst.follow(submitted, channel, on_event=lambda _name, _facts: None)
            finally:
                launcher.stop()

        run_again()
        grants = len(world.entries("grant"))
        with pytest.raises(StrongroomError, match="used by another driver"):
            run_again()
        assert len(world.entries("grant")) == grants
