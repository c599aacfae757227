"""Workers of one job talk with each other and with nobody else, and notice when one is gone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mesh_world import mesh_world

from strongroom.errors import UsageError
from strongroom.workload.handover import MessageError
from strongroom.workload.mesh.links import PeerLostError
from strongroom.workload.mesh.mesh import Mesh
from strongroom.workload.mesh.roster import Roster, Round


@pytest.fixture(scope="module")
def world():
    with mesh_world(3) as made:
        yield made


@pytest.fixture
def meshes(world, request):
    made = world.connect(number=_next_round())
    yield made
    for mesh in made:
        mesh.close()


_rounds = iter(range(1, 1000))


def _next_round() -> int:
    return next(_rounds)


def test_every_worker_reaches_every_other(meshes):
    for mesh in meshes:
        for other in range(3):
            if other != mesh.rank:
                mesh.post(other, (1, mesh.rank), memoryview(bytes([mesh.rank]) * 5))
    for mesh in meshes:
        for other in range(3):
            if other != mesh.rank:
                got = bytearray(5)
                mesh.receive(other, (1, other), memoryview(got), deadline=10)
                assert got == bytes([other]) * 5


def test_messages_are_found_by_their_number_in_whatever_order_they_came(meshes):
    for number in range(5):
        meshes[0].post(1, (7, number), memoryview(bytes([number]) * 100_000))
    for number in (3, 0, 4, 2, 1):
        got = bytearray(100_000)
        meshes[1].receive(0, (7, number), memoryview(got), deadline=10)
        assert got == bytes([number]) * 100_000


def test_two_threads_wait_for_messages_of_one_worker(meshes):
    def take(stream: int) -> bytes:
        got = bytearray(3)
        meshes[1].receive(0, (stream, 0), memoryview(got), deadline=10)
        return bytes(got)

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(take, stream) for stream in (1, 2)]
        time.sleep(0.05)
        meshes[0].post(1, (2, 0), memoryview(b"two"))
        meshes[0].post(1, (1, 0), memoryview(b"one"))
        assert [one.result(10) for one in waiting] == [b"one", b"two"]


def test_large_messages_cross_without_waiting_for_each_other(meshes):
    data = [memoryview(bytes([rank]) * (8 << 20)) for rank in range(2)]
    sent = [meshes[rank].post(1 - rank, (1, 1), data[rank]) for rank in range(2)]  # more than any socket holds
    for rank in range(2):
        got = bytearray(8 << 20)
        meshes[rank].receive(1 - rank, (1, 1), memoryview(got), deadline=30)
        assert got == data[1 - rank]
    for one in sent:
        one.wait(10)


def test_whoever_waits_for_a_worker_that_is_gone_is_told(meshes):
    threading.Timer(0.1, meshes[0].close).start()
    started = time.monotonic()
    with pytest.raises(PeerLostError, match="worker 0 is gone"):
        meshes[1].receive(0, (1, 1), memoryview(bytearray(1)), deadline=60)
    assert time.monotonic() - started < 10
    assert meshes[1].broken
    with pytest.raises(PeerLostError):  # and again, at once
        meshes[1].receive(0, (1, 1), memoryview(bytearray(1)), deadline=60)


def test_a_silent_worker_is_waited_for_until_the_deadline(meshes):
    with pytest.raises(PeerLostError, match="worker 0"):
        meshes[1].receive(0, (1, 1), memoryview(bytearray(1)), deadline=0.2)


def test_a_message_of_another_size_is_an_error_that_says_what_to_do(meshes):
    meshes[0].post(1, (1, 1), memoryview(b"four"))
    with pytest.raises(UsageError, match="sent 4 bytes where 5 were expected") as caught:
        meshes[1].receive(0, (1, 1), memoryview(bytearray(5)), deadline=10)
    assert "same collectives" in caught.value.hint


def test_a_message_may_be_of_any_size_up_to_what_there_is_room_for(meshes):
    into = memoryview(bytearray(100_000))
    for number, size in enumerate((5, 100_000, 0)):
        meshes[0].send(1, (1, number), memoryview(bytes([7]) * size))
    assert [meshes[1].receive(0, (1, number), into, deadline=10, least=0) for number in range(2)] == [5, 100_000]
    assert into == bytes([7]) * 100_000
    meshes[0].send(1, (1, 3), memoryview(b"early"))
    meshes[0].send(1, (1, 4), memoryview(bytes(100_001)))
    assert meshes[1].receive(0, (1, 3), into, deadline=10, least=0) == 5
    assert meshes[1].receive(0, (1, 2), into, deadline=10, least=0) == 0
    with pytest.raises(UsageError, match="sent 100001 bytes where at most 100000 were expected"):
        meshes[1].receive(0, (1, 4), into, deadline=10, least=0)


def test_what_is_sent_in_this_thread_comes_after_what_was_posted(meshes):
    posted = meshes[0].post(1, (1, 0), memoryview(bytes(1_000_000)))
    meshes[0].send(1, (1, 0), memoryview(b"then"))
    posted.wait(10)
    into = memoryview(bytearray(1_000_000))
    sizes = [meshes[1].receive(0, (1, 0), into, deadline=10, least=0) for _ in range(2)]
    assert sizes == [1_000_000, 4]


def test_whoever_sends_to_a_worker_that_is_gone_is_told(meshes):
    threading.Timer(0.1, meshes[1].close).start()
    with pytest.raises(PeerLostError, match="worker 1 is gone"):
        meshes[0].send(1, (1, 0), memoryview(bytes(50_000_000)))  # more than any socket holds, and nobody takes it
    with pytest.raises(PeerLostError):  # and again, at once
        meshes[0].send(1, (1, 0), memoryview(b"more"))


@pytest.mark.parametrize("size", [3, 1_000_000])
def test_whoever_posts_to_a_mesh_that_was_closed_is_told_at_once(meshes, size):
    meshes[0].close()
    started = time.monotonic()
    for posted in (meshes[0].post(1, (1, 0), memoryview(bytes(size)), at_once=once) for once in (True, False)):
        with pytest.raises(PeerLostError):
            posted.wait(20)
    with pytest.raises(PeerLostError):
        meshes[0].send(1, (1, 0), memoryview(bytes(size)))
    assert time.monotonic() - started < 10


def test_a_worker_that_does_not_come_is_named(world):
    with pytest.raises(PeerLostError, match=r"worker [12] did not come within 0.5 s"):
        world.doors[0].open(world.roster(0, number=_next_round()), deadline=0.5)


def test_one_worker_alone_has_a_mesh_without_links():
    mesh = Mesh.alone()
    assert (mesh.rank, mesh.size, mesh.broken) == (0, 1, False)
    mesh.close()


def test_rounds_travel_as_they_are(world):
    sent = Round(roster=world.roster(2, number=7), program=b"x = 1\n", checkpoint={"name": "c"})
    assert Round.decode(sent.encode()) == sent


@pytest.mark.parametrize("change", [{"rank": 3}, {"rank": -1}, {"round": 0}, {"places": []}, {"more": 1}])
def test_a_roster_of_another_shape_is_refused(world, change):
    with pytest.raises(MessageError):
        Roster.decode({**world.roster(0).encode(), **change})


def test_a_roster_that_names_one_worker_twice_is_refused(world):
    places = world.places
    with pytest.raises(MessageError, match="same keys"):
        Roster.decode(Roster(round=1, rank=0, places=(places[0], places[0])).encode())
