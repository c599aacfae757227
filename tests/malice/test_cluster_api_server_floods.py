"""An API server that sends without end fills no memory; callers who only hold the line fill no porter with threads."""

import contextlib
import socket
import ssl
import threading

import pytest

from strongroom.errors import TransportError
from strongroom.jobs.launch.kubernetes.access import Access
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.porter import serve

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n"


@pytest.fixture
def flood():
    """A server that answers everything with a list of a terabyte; the port, and how many bytes it got rid of."""
    sent = [0]

    def answer(caller):
        with caller, contextlib.suppress(OSError):
            caller.recv(1 << 16)
            caller.sendall(HEAD)
            while True:
                sent[0] += caller.send(b" " * (1 << 20))

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], sent
        listener.shutdown(socket.SHUT_RDWR)


def test_endless_list_is_given_up(flood):
    port, sent = flood
    access = Access(server=f"http://127.0.0.1:{port}", tls=ssl.create_default_context(), namespace="jobs", headers=dict)
    with pytest.raises(TransportError, match="more than 67108864 bytes"):
        Cluster(access, namespace="jobs").list("pods")
    assert sent[0] < 128 << 20


def test_33rd_caller_of_a_porter_waits_until_one_leaves(tmp_path):
    (tmp_path / "result").write_bytes(b"ciphertext")
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, contextlib.ExitStack() as callers:
        threading.Thread(target=serve, args=(tmp_path, listener), daemon=True).start()
        address = listener.getsockname()
        held = [callers.enter_context(socket.create_connection(address, timeout=10)) for _ in range(32)]
        for caller in held:
            assert caller.recv(1 << 20), "everyone of these is served"
        last = callers.enter_context(socket.create_connection(address, timeout=10))
        last.settimeout(0.3)
        with pytest.raises(TimeoutError):
            last.recv(1)
        assert threading.active_count() - before <= 33
        held[0].close()
        last.settimeout(10)
        assert last.recv(1)
