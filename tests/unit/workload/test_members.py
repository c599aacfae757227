"""Workers that come, leave in order, are told to stop, or fall silent: who hears what."""

import queue
import threading
import time

import pytest

from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import DeadlineError
from strongroom.errors import TransportError
from strongroom.workload.handover import BrokerAddress, ClusterJoin
from strongroom.workload.members import Members


class Channel:
    """A channel to an attested worker that this test plays; ``None`` in its words is the end of the connection."""

    def __init__(self, *, patience: float = 60) -> None:
        self.words, self.heard, self.closed = queue.Queue(), [], False
        self._patience = patience

    def send(self, message, **_more):
        if self.closed:
            raise TransportError("closed")
        self.heard.append(message)

    def receive(self, *, deadline):
        try:
            said = self.words.get(timeout=min(deadline, self._patience))
        except queue.Empty:
            raise DeadlineError(f"nothing came for {deadline:g} s") from None
        if said is None:
            raise TransportError("the other side closed the connection")
        return said

    def close(self):
        self.closed = True
        self.words.put(None)


class Scene:
    def __init__(self):
        self.counts, self.silent, self.gone, self.events = [], [], [], []
        self.members = Members(
            admit=lambda _channel, _role: "letter",
            statement="job",
            broker=BrokerAddress(url="https://broker", measurements=("sgx:1",)),
            checkpoint=lambda: "",
            on_event=lambda name, **facts: self.events.append((name, facts)),
            on_count=lambda staying, leaving: self.counts.append((staying, leaving)),
            on_silent=lambda role, name: self.silent.append((role, name)),
        )
        self.members.open_cluster(
            lambda number: ClusterJoin(
                secret=bytes(32), driver_url="spark://x", app_id="app", executor_id=number, cores=1, memory="1g"
            ),
            on_gone=self.gone.append,
        )

    def come(self, name, **more):
        channel = Channel(**more)
        threading.Thread(target=self.members.welcome, args=(channel, Role.WORKER), daemon=True).start()
        wait(lambda: any(word.get("type") == "cluster" for word in channel.heard))
        channel.words.put({"type": "placed", "name": name})
        return channel


def wait(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.members.close()


def test_worker_that_leaves_in_order_is_counted_out_and_no_loss(scene):
    first, _second = scene.come("worker-1"), scene.come("worker-2")
    scene.members.note_leaving(1)
    assert scene.counts[-1] == (1, 1)
    first.close()
    wait(lambda: scene.counts[-1] == (1, 0))
    wait(lambda: scene.gone == [1])
    assert not [name for name, _ in scene.events if name == "member-lost"]
    assert scene.silent == []


def test_worker_whose_connection_breaks_is_lost_and_not_ended_by_force(scene):
    scene.come("worker-1").close()
    wait(lambda: scene.gone == [1])
    assert [name for name, _ in scene.events] == ["member-lost"]
    assert scene.silent == []
    assert scene.counts[-1] == (0, 0)


def test_worker_that_falls_silent_is_given_up_and_its_host_asked_to_end_it(scene):
    scene.come("worker-7", patience=0.3)
    wait(lambda: scene.silent == [(Role.WORKER, "worker-7")])
    assert "nothing came" in scene.events[-1][1]["reason"]
    wait(lambda: scene.counts[-1] == (0, 0))


def test_worker_that_spark_lets_go_is_told_to_stop_and_no_other(scene):
    first, second = scene.come("worker-1"), scene.come("worker-2")
    scene.members.dismiss(2)
    assert second.heard[-1] == {"type": "stop", "reasons": []}
    assert first.heard[-1]["type"] == "cluster"
    assert scene.counts[-1] == (1, 1)


def test_worker_that_does_not_stop_when_told_is_given_up(scene, monkeypatch):
    monkeypatch.setattr("strongroom.workload.members._LEAVE_SECONDS", 0.2)
    channel = scene.come("worker-1")
    scene.members.dismiss(1)
    wait(lambda: scene.silent == [(Role.WORKER, "worker-1")])
    assert channel.closed
