"""A service that sends without end, or a byte now and then, fills no memory and holds nobody up."""

import socket
import threading
import time

import httpx
import pytest

from strongroom.answers import TooLongAnswerError, read_answer
from strongroom.attestation.azure_guest import AzureGuest
from strongroom.attestation.coco_agent import RestAgent
from strongroom.attestation.tee import TeeDeviceError
from strongroom.broker import calls
from strongroom.errors import TransportError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
MOST = 8 << 20  # what it may have sent, with all buffers on the way, before the reader hung up


class Service:
    """Answers one request with a head and then ``part`` again and again, until the caller hangs up."""

    def __init__(self, part, *, pause=0.0):
        self.sent, self._part, self._pause = 0, part, pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        try:
            line, _ = self._listener.accept()
            with line:
                line.recv(65536)
                line.sendall(HEAD)
                while self.sent < 64 << 20:
                    line.sendall(self._part)
                    self.sent += len(self._part)
                    time.sleep(self._pause)
        except OSError:
            return

    def close(self):
        self._listener.close()


@pytest.fixture
def flood():
    service = Service(bytes(1 << 16))
    yield service
    service.close()


@pytest.fixture
def drip():
    service = Service(b" ", pause=0.05)
    yield service
    service.close()


def ask(service, **limits):
    with httpx.Client(trust_env=False, timeout=5) as client:
        return read_answer(client, "GET", service.url, **{"most": 1 << 20, "ends": time.monotonic() + 5, **limits})


def test_an_answer_without_end_is_given_up_at_its_limit(flood):
    with pytest.raises(TooLongAnswerError, match="more than 1048576"):
        ask(flood)
    assert flood.sent < MOST + (1 << 20)


def test_an_answer_that_drips_is_given_up_at_its_deadline(drip):
    begun = time.monotonic()
    with pytest.raises(httpx.ReadTimeout, match="deadline"):
        ask(drip, ends=begun + 0.3)
    assert time.monotonic() - begun < 3


def test_the_agent_and_azures_host_services_are_not_read_without_end(flood, drip):
    with pytest.raises(TeeDeviceError, match="more than"):
        RestAgent(flood.url).evidence(bytes(64))
    assert flood.sent < MOST + (4 << 20)
    begun = time.monotonic()
    guest = AzureGuest(None, services=drip.url, seconds=0.3)
    with pytest.raises(TeeDeviceError, match="deadline"):
        guest._ask_vcek()
    assert time.monotonic() - begun < 3


def test_what_answers_in_a_brokers_place_is_not_read_without_end(flood, monkeypatch):
    monkeypatch.setattr(calls, "MAX_ANSWER_BYTES", 1 << 20)
    line = calls.Line.__new__(calls.Line)
    line.url, line.memory, line.ledger, line._known = flood.url, None, None, 0
    line._http = httpx.Client(base_url=flood.url, trust_env=False, timeout=5)
    with pytest.raises(TransportError, match="is not a broker"):
        line._send("/v1/evidence", b"{}", {})
    assert flood.sent < MOST + (1 << 20)
    line.close()
