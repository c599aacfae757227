"""The host stops a process (SIGSTOP) without ending it, so that its connections stay open and nothing comes."""

import time

import pytest
from small_world import LONG_QUERY, changed_package, lives, pids, small_world, stop

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.placement import DriverLostError

# The published code waits 120 s for a sign of life; this copy, which its owners approve, waits six.
IMPATIENT = {
    "workload/pulse.py": (
        "PULSE_SECONDS = 10.0\nSILENCE_SECONDS = 120.0",
        "PULSE_SECONDS = 0.5\nSILENCE_SECONDS = 6.0",
    )
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stopped")
    with small_world(directory, lease=60, package=changed_package(directory / "impatient", IMPATIENT)) as made:
        yield made


@pytest.mark.slow
def test_analyst_gives_up_a_driver_that_is_stopped_and_nothing_of_it_stays(world):
    analyst, door, seen = world.analyst, world.analyst_door(), []

    def on_event(name, _facts):
        if name == "program-started":
            stop(launcher.processes["driver"][0])

    submitted = analyst.submit(world.write_job(program=LONG_QUERY), broker=door)
    launcher = analyst.launch(
        submitted,
        host=world.platform,
        engine="embedded",
        directory=world.job_directory(),
        on_event=lambda name, facts: seen.append((name, facts)),
    )
    started = time.monotonic()
    try:
        channel = analyst.attest_driver(submitted, launcher.start_address)
        analyst.hand_over(submitted, channel, broker=door)
        with pytest.raises(DriverLostError, match="the driver said nothing for 5 s"):
            analyst.follow(submitted, channel, on_event=on_event, silence=5)
    finally:
        launcher.stop()
    assert time.monotonic() - started < 60
    assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))


@pytest.mark.slow
def test_driver_gives_up_an_egress_that_is_stopped(world):
    seen, started = [], time.monotonic()

    def on_event(name, facts):
        seen.append((name, facts))
        if name == "member-admitted":
            stop(pids(seen, "egress")[0])
        if name == "member-lost":
            raise KeyboardInterrupt  # the analyst has seen enough

    with pytest.raises((StrongroomError, KeyboardInterrupt)):
        world.run(on_event=on_event)
    lost = [facts for name, facts in seen if name == "member-lost"]
    assert lost[0]["role"] == "egress"
    assert "6 s" in lost[0]["reason"]
    assert time.monotonic() - started < 60
    assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))
