"""The operator's listener tells a broker that serves from one that waits, and from one that hangs."""

import asyncio
import http.client
import socket
import threading
import time

import pytest

from strongroom.broker.monitor import MOST_CALLERS, Monitor
from strongroom.errors import UsageError


def ask(port, path):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    line.request("GET", path)
    answer = line.getresponse()
    return answer.status, answer.read().decode()


def test_broker_that_waits_for_its_store_is_healthy_and_not_ready():
    async def wait():
        monitor = Monitor("127.0.0.1", 0)
        found = [await asyncio.to_thread(ask, monitor.port, path) for path in ("/healthz", "/readyz", "/metrics")]
        monitor.close()
        return found

    healthy, ready, metrics = asyncio.run(wait())
    assert healthy == (200, "ok\n")
    assert ready == (503, "not serving\n")
    assert metrics[0] == 200
    assert "strongroom_broker_serving 0.0" in metrics[1]


def test_broker_whose_loop_hangs_is_not_healthy():
    async def hang():
        monitor = Monitor("127.0.0.1", 0, patience=0.2)
        asked = asyncio.create_task(asyncio.to_thread(ask, monitor.port, "/healthz"))
        await asyncio.sleep(0)
        time.sleep(1.0)
        found = await asked
        monitor.close()
        return found

    assert asyncio.run(hang()) == (503, "the broker does not answer\n")


def test_caller_that_says_nothing_is_let_go():
    async def stall():
        monitor = Monitor("127.0.0.1", 0, patience=0.2)
        with socket.create_connection(("127.0.0.1", monitor.port), timeout=10) as line:
            line.sendall(b"GET /metr")
            said = await asyncio.to_thread(line.recv, 100)
        monitor.close()
        return said

    assert asyncio.run(stall()) == b""


def test_caller_that_says_a_byte_now_and_then_is_let_go():
    async def drip():
        monitor = Monitor("127.0.0.1", 0, patience=0.5)
        begun = time.monotonic()

        def say():
            with socket.create_connection(("127.0.0.1", monitor.port), timeout=10) as line:
                line.settimeout(0.1)
                for byte in b"GET /metrics HTTP/1.0\r\n" + 100 * b"x":
                    line.sendall(bytes([byte]))
                    try:
                        return line.recv(100)
                    except TimeoutError:
                        continue
            return b"it listened to everything"

        said = await asyncio.to_thread(say)
        monitor.close()
        return said, time.monotonic() - begun

    said, seconds = asyncio.run(drip())
    assert said == b""
    assert seconds < 5


def test_many_silent_callers_take_a_few_threads_and_then_their_leave():
    async def crowd():
        monitor = Monitor("127.0.0.1", 0, patience=0.5)
        before = threading.active_count()
        lines = [socket.create_connection(("127.0.0.1", monitor.port), timeout=10) for _ in range(5 * MOST_CALLERS)]
        await asyncio.sleep(0.3)
        most = threading.active_count() - before
        await asyncio.to_thread(lambda: [line.recv(1) for line in lines])  # each is hung up on, sooner or later
        found = await asyncio.to_thread(ask, monitor.port, "/healthz")
        monitor.close()
        return most, found

    most, found = asyncio.run(crowd())
    assert most <= MOST_CALLERS + 1
    assert found == (200, "ok\n")


def test_address_that_is_taken_is_a_clear_error():
    async def start():
        with socket.create_server(("127.0.0.1", 0)) as held:
            Monitor("127.0.0.1", held.getsockname()[1])

    with pytest.raises(UsageError, match="cannot show metrics"):
        asyncio.run(start())
