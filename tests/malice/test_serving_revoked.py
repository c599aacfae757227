"""An owner revokes while its model answers; whoever serves it would rather go on."""

import threading
import time

import pytest
from serving_world import SIMPLE, Here, ask, outputs, simple_world
from small_world import lives, pids, wait_until

from strongroom.errors import RefusedError, StrongroomError
from strongroom.serving import endpoint as serving_endpoint
from strongroom.serving.connections import Connections

LEASE = 3


def test_model_revoked_while_serving_stops_answering_within_its_lease(tmp_path):
    with simple_world(tmp_path, lease=LEASE) as world:
        job = world.serve_job("simple", program=SIMPLE)
        heard = []
        endpoint = world.serve(job, on_event=lambda name, facts: heard.append((name, facts)))
        try:
            with world.asking(endpoint) as client:
                assert ask(client, [[1.0, 0.0]]).status_code == 200
                home = world.owners["hospital"]
                home.owner.revoke(home.dataset, reason="consent withdrawn", broker=home.broker)
                revoked = time.monotonic()

                def answers():
                    try:
                        return ask(client, [[1.0, 0.0]]).status_code == 200
                    except StrongroomError:
                        return False

                wait_until(lambda: not answers(), seconds=3 * LEASE, why="it went on answering")
                stopped = time.monotonic() - revoked
            with pytest.raises(RefusedError) as caught:
                endpoint.wait(30)
            assert any("is revoked by its owner" in reason for reason in caught.value.reasons)
            assert stopped < LEASE + 2
            (pid,) = pids(heard, "endpoint")
            wait_until(lambda: not lives(pid), seconds=15, why="the endpoint's process lives on")
        finally:
            endpoint.stop()
        with pytest.raises(RefusedError):
            world.serve(job)


def test_policy_tightened_while_serving_cuts_the_next_answers(tmp_path):
    with simple_world(tmp_path, digits=6) as world:
        endpoint = world.serve(world.serve_job("simple", program=SIMPLE))
        try:
            with world.asking(endpoint) as client:

                def score():
                    return outputs(ask(client, [[1.0, 0.0]]))["score"][0]

                assert score() == 0.123457
                world.permit("hospital", programs=(SIMPLE.encode(),), kinds=("scores",), digits=2)
                wait_until(lambda: score() == 0.12, seconds=8, why="it answers by the policy of yesterday")
        finally:
            endpoint.stop()


def test_endpoint_whose_own_end_overtakes_the_revocation_still_tells_of_it(tmp_path, monkeypatch):
    """Attack: on a busy machine the thread that ends the endpoint runs before the one that knows why."""
    with simple_world(tmp_path, lease=LEASE) as world:
        host = Here(world, monkeypatch)

        class SlowToHangUp(Connections):
            def close(self) -> None:
                if threading.current_thread() is not host.conduct:
                    host.conduct.join(30)
                super().close()

        monkeypatch.setattr(serving_endpoint, "Connections", SlowToHangUp)
        monkeypatch.setattr(serving_endpoint, "end_now", lambda close, *, code: (close(), code))
        endpoint = world.serve(world.serve_job("simple", program=SIMPLE), host=host)
        try:
            home = world.owners["hospital"]
            home.owner.revoke(home.dataset, reason="consent withdrawn", broker=home.broker)
            with pytest.raises(RefusedError) as caught:
                endpoint.wait(60)
            assert any("is revoked by its owner" in reason for reason in caught.value.reasons)
            assert host.wait(60) == RefusedError.exit_code
        finally:
            endpoint.stop()
