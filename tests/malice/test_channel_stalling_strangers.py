"""The attacker opens connections and stalls: says nothing, drips, or stops half-way; honest workers still get in."""

from __future__ import annotations

import hashlib
import socket
import threading
import time

import pytest

from strongroom.attestation.introduction import Greeting
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, DeadlineError, LineClosedError, SecureLine
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import StrongroomError
from strongroom.testing import connect_as, listen_as, simulated_platform

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


def next_channel(driver):
    """Accept past the strangers' refusals, as a driver does."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            return driver.accept(deadline=1)
        except StrongroomError:
            continue
    raise AssertionError("no channel")


def test_silent_strangers_do_not_keep_a_worker_out(platform):
    with listen_as("driver", platform=platform, job_digest=JOB, deadline=30, max_pending=4) as driver:
        strangers = [socket.create_connection(driver.address) for _ in range(40)]
        started = time.monotonic()
        with connect_as("worker", driver.address, platform=platform, job_digest=JOB), next_channel(driver) as channel:
            assert channel.peer_role is Role.WORKER
        assert time.monotonic() - started < 15
        for stranger in strangers:
            stranger.close()


def test_the_longest_stalling_stranger_is_dropped_first(platform):
    with listen_as("driver", platform=platform, job_digest=JOB, deadline=30, max_pending=2) as driver:
        strangers = [socket.create_connection(driver.address, timeout=15) for _ in range(3)]
        assert strangers[0].recv(1) == b""  # hung up
        strangers[2].settimeout(0.2)
        with pytest.raises(TimeoutError):
            strangers[2].recv(1)


def test_a_stranger_that_stops_half_way_meets_the_deadline(platform):
    with listen_as("driver", platform=platform, job_digest=JOB, deadline=0.3) as driver:
        keys = WorkloadKeys.generate()
        line = SecureLine(socket.create_connection(driver.address), keys=keys, server=False)
        line.shake_hands(Deadline(15))
        line.send(Greeting.fresh(role=Role.WORKER, keys=keys.public).to_json(), Deadline(15))
        with pytest.raises(DeadlineError):
            driver.accept(deadline=15)
        line.receive(Deadline(15))  # the greeting that came before
        with pytest.raises(LineClosedError):
            line.receive(Deadline(15))


def test_a_peer_that_drips_bytes_meets_the_same_deadline(platform):
    """Every byte arrives well within the deadline; only the sum does not."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip():
        plain, _ = server.accept()
        line = SecureLine(plain, keys=WorkloadKeys.generate(), server=True)
        try:
            line.shake_hands(Deadline(15))
            line.receive(Deadline(15))
            while True:  # one byte at a time of a frame that never ends
                line._until(lambda: line._tls.send(b"\x00"), Deadline(1))
                time.sleep(0.05)
        except StrongroomError:
            line.close()

    threading.Thread(target=drip, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(StrongroomError):
        connect_as("worker", server.getsockname(), platform=platform, job_digest=JOB, deadline=0.5)
    assert time.monotonic() - started < 2


def test_an_address_that_swallows_connections_meets_the_deadline(platform):
    server = socket.create_server(("127.0.0.1", 0))
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        connect_as("worker", server.getsockname(), platform=platform, job_digest=JOB, deadline=0.3)
    assert time.monotonic() - started < 2


def test_a_peer_that_stops_reading_meets_the_deadline_of_send(platform):
    with (
        listen_as("driver", platform=platform, job_digest=JOB) as driver,
        connect_as("worker", driver.address, platform=platform, job_digest=JOB) as worker,
        next_channel(driver),
    ):
        with pytest.raises(DeadlineError):
            send_until_it_hurts(worker)
        with pytest.raises(LineClosedError):  # half a message is on the wire: the channel is over
            worker.send({}, deadline=0.3)


def send_until_it_hurts(channel):
    for _ in range(100):
        channel.send({"fill": "x" * (1 << 20)}, deadline=0.3)
