"""The host kills the broker between any two of its steps, hoping that something half-done remains."""

import contextlib
import os
import random
import signal
import threading
import time

import pytest
from scene import Scene

from strongroom.errors import StrongroomError
from strongroom.ledger.export import check_export


class KillingCounters:
    """The platform's counters, in the hands of a host that kills the broker around an advance."""

    def __init__(self, counters, scene, *, when):
        self._counters, self._scene, self._when = counters, scene, when
        self.armed = False

    def read(self, measurement, name):
        return self._counters.read(measurement, name)

    def advance_to(self, measurement, name, value):
        if self.armed and self._when == "before":
            self._kill()
        self._counters.advance_to(measurement, name, value)
        if self.armed and self._when == "after":
            self._kill()

    def _kill(self):
        self.armed = False
        os.kill(self._scene.process.pid, signal.SIGKILL)
        self._scene.process.wait(timeout=20)


@pytest.mark.parametrize("when", ["before", "after"])
def test_broker_killed_around_the_counter_starts_again_and_the_owner_can_finish(tmp_path, when):
    scene = Scene(tmp_path)
    try:
        scene.platform._counters = counters = KillingCounters(scene.platform._counters, scene, when=when)
        client = scene.ready()
        counters.armed = True
        with pytest.raises(StrongroomError):
            client.revoke("flights", "withdrawn", scene.airline.key)
        assert scene.start()["event"] == "ready"
        client.revoke("flights", "withdrawn", scene.airline.key)
        with pytest.raises(StrongroomError, match="refused"):
            client.submit_job(scene.job().statement)
    finally:
        scene.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_broker_killed_at_its_very_first_start_starts_again(tmp_path, when):
    scene = Scene(tmp_path)
    try:
        scene.platform._counters = counters = KillingCounters(scene.platform._counters, scene, when=when)
        counters.armed = True
        assert scene.start() == {}
        assert scene.start()["event"] == "ready"
        scene.enrol(scene.client())
    finally:
        scene.close()


def test_every_answer_given_before_a_kill_at_any_moment_is_still_true_afterwards(tmp_path):
    scene = Scene(tmp_path)
    dice = random.Random(7)
    try:
        client = scene.ready()
        answered = []
        for _ in range(4):
            stop = threading.Event()

            def ask(stop=stop):
                while not stop.is_set():
                    with contextlib.suppress(StrongroomError):
                        job = scene.job()
                        answered.append((job, client.submit_job(job.statement)))

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.3 + dice.random() / 2)
            scene.kill()
            stop.set()
            assert scene.start()["event"] == "ready"
            for thread in threads:
                thread.join(60)
        assert len(answered) > 20
        for _, ticket in answered:
            assert client.verified_entry(ticket.index).facts["job"] == ticket.job_id
        job, ticket = answered[0]
        assert scene.driver(client, job, ticket).release(["flights"]).datasets
        client.export(tmp_path / "export")
        remembered = client.memory.recall()[1].checkpoint
        assert check_export(tmp_path / "export", client.ledger_key, remembered=remembered).good
    finally:
        scene.close()


def test_running_job_continues_over_a_broker_that_was_killed(tmp_path):
    scene = Scene(tmp_path)
    try:
        client = scene.ready()
        job = scene.job()
        driver = scene.driver(client, job, client.submit_job(job.statement))
        before = driver.release(["flights", "weather"])
        scene.kill()
        scene.start()
        assert driver.renew() == 300
        after = driver.release(["flights", "weather"])
        assert after.output == before.output
        assert after.datasets["flights"].key("flights@1/footer") == before.datasets["flights"].key("flights@1/footer")
    finally:
        scene.close()
