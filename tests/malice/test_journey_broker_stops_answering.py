"""The host stops the broker (SIGSTOP) while a job holds keys, so that no refusal can reach it."""

import time

import pytest
from small_world import LONG_QUERY, go_on, lives, pids, small_world, stop

from strongroom.errors import RefusedError


def test_keys_are_given_up_when_the_lease_ends_however_long_the_broker_is_silent(tmp_path):
    with small_world(tmp_path, lease=3) as world:
        seen, stopped = [], []

        def on_event(name, facts):
            seen.append((name, facts))
            if name == "program-started":
                stop(world.broker_process.pid)
                stopped.append(time.monotonic())

        try:
            with pytest.raises(RefusedError) as refused:
                world.run(world.write_job(program=LONG_QUERY), on_event=on_event)
            # The lease, and what a busy machine needs to notice; a request to the broker alone would wait 30 s.
            assert time.monotonic() - stopped[0] < 20
        finally:
            go_on(world.broker_process.pid)
        assert any("the lease ended" in reason for reason in refused.value.reasons)
        assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))
