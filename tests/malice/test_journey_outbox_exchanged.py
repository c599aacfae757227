"""The host changes what the program wrote, before egress reads it: flipped, cut, taken away, exchanged."""

import shutil

import pytest
from small_world import Background, go_on, pids, small_world, stop, wait_until

from strongroom.errors import StrongroomError


def flip(outbox, _other):
    path = next(outbox.glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(outbox, _other):
    path = next(outbox.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])


def take_away(outbox, _other):
    next(outbox.glob("*.parquet")).unlink()


def exchange(outbox, other):
    """A valid output of an earlier job of the same analyst, in place of this job's."""
    shutil.rmtree(outbox)
    shutil.copytree(other, outbox)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("outbox"), lease=30) as made:
        made.first = made.directory / "jobs" / "job-0" / "outbox"
        made.run()
        yield made


@pytest.mark.parametrize(
    "change",
    [
        flip,
        pytest.param(cut, marks=pytest.mark.slow),
        pytest.param(take_away, marks=pytest.mark.slow),
        exchange,
    ],
)
def test_output_changed_on_its_way_to_egress_is_not_released(world, change):
    events, directory = [], world.directory / "jobs" / f"job-{len(list((world.directory / 'jobs').iterdir()))}"
    released = len(world.entries("output"))

    def on_event(name, facts):
        events.append((name, facts))
        if name == "host-started" and facts["role"] == "egress":
            stop(facts["pid"])  # until the outbox holds what the host wants

    job = Background(world.run, on_event=on_event)
    wait_until(lambda: list(directory.glob("outbox/*/manifest.json")) and pids(events, "egress"), seconds=60)
    (outbox,) = (directory / "outbox").iterdir()
    (earlier,) = world.first.iterdir()
    change(outbox, earlier)
    go_on(pids(events, "egress")[0])
    with pytest.raises(StrongroomError) as failed:
        job.outcome(90)
    assert failed.value.message
    assert len(world.entries("output")) == released
