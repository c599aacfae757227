"""The attestation agent of a confidential pod is asked by either API, and only an answer to our question leaves."""

import base64
import contextlib
import json
import socket
import struct
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from amd_vendor import AmdVendor
from azure_guest import evidence as azure_evidence

from strongroom.attestation.anchors import INTEL
from strongroom.attestation.coco_agent import AGENT_SOCKET, RestAgent, SocketAgent, ask_agent
from strongroom.attestation.evidence import parse_quote
from strongroom.attestation.providers import CocoTee, detect
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import TdxFacts, quote_tdx
from strongroom.attestation.tee import TeeCapabilityError, TeeDeviceError
from strongroom.errors import UsageError

VENDOR = Vendor(b"v" * 32)
ASKED = bytes(range(128, 192))
LOG = bytes(32) + b"a boot log"


def as_tdx(report_data: bytes) -> bytes:
    quote = quote_tdx(VENDOR, TdxFacts(mr_td=b"T" * 48, rtmrs=(bytes(48),) * 4), report_data=report_data)
    return json.dumps(
        {"quote": base64.b64encode(quote).decode(), "cc_eventlog": base64.b64encode(LOG).decode()}
    ).encode()


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(data: bytes) -> dict:
    found, offset = {}, 0

    def number() -> int:
        nonlocal offset
        value = shift = 0
        while True:
            octet = data[offset]
            offset += 1
            value |= (octet & 127) << shift
            shift += 7
            if octet < 128:
                return value

    while offset < len(data):
        key = number()
        length = number()
        found[key >> 3] = length if key & 7 == 0 else data[offset : offset + length]
        offset += 0 if key & 7 == 0 else length
    return found


@pytest.fixture
def root():
    """A root directory with a short name, since the name of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sr-") as directory:
        yield Path(directory)


@pytest.fixture
def ttrpc(root: Path):
    """An agent on a Unix socket, as containerd's ttRPC speaks; ``answer`` makes the frame from the runtime data."""

    class Serving:
        path = root / AGENT_SOCKET
        asked: list = []  # noqa: RUF012  one test's
        delay = 0.0

        @staticmethod
        def answer(runtime_data: bytes) -> bytes:
            payload = field(2, field(1, as_tdx(runtime_data)))
            return struct.pack(">IIBB", len(payload), 1, 2, 0) + payload

    Serving.path.parent.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(Serving.path))
    server.listen()

    def run() -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            with line:
                length, stream, kind, _ = struct.unpack(">IIBB", line.recv(10))
                body = b""
                while len(body) < length:
                    body += line.recv(length - len(body))
                request = fields(body)
                assert (stream, kind) == (1, 1)
                assert request[4] > 0, "a ttRPC request has a timeout"
                Serving.asked.append((request[1].decode(), request[2].decode()))
                time.sleep(Serving.delay)
                with contextlib.suppress(BrokenPipeError):  # whoever asked did not wait
                    line.sendall(Serving.answer(fields(request[3])[1]))

    threading.Thread(target=run, daemon=True).start()
    yield Serving
    server.close()


@pytest.fixture
def rest():
    """An agent's REST server; ``is_old`` takes the text for the bytes, as servers before 2026 did."""

    class Answer(BaseHTTPRequestHandler):
        is_old, status, body = False, 200, None

        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(parts.query)
            text = query["runtime_data"][0]
            decode = not self.is_old and query.get("encoding") == ["base64"]
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if decode else text.encode()
            body = as_tdx(data[:64].ljust(64, b"\0")) if self.body is None else self.body
            assert parts.path == "/aa/evidence"
            self.send_response(self.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Answer
    server.shutdown()
    server.server_close()


def test_the_agents_socket_gives_evidence_with_its_boot_log(ttrpc) -> None:
    found = ask_agent(SocketAgent(ttrpc.path), ASKED)
    assert (found.tee, parse_quote(found.quote).report_data, found.event_log) == ("tdx", ASKED, LOG)
    assert ttrpc.asked[-1] == ("attestation_agent.AttestationAgentService", "GetEvidence")


def test_the_agents_rest_server_takes_bytes_as_base64(rest) -> None:
    found = ask_agent(RestAgent(rest[0]), ASKED)
    assert (found.tee, parse_quote(found.quote).report_data) == ("tdx", ASKED)


def test_an_older_rest_server_is_found_out_by_its_report_data(rest) -> None:
    rest[1].is_old = True
    with pytest.raises(TeeDeviceError, match="other report data") as refused:
        ask_agent(RestAgent(rest[0]), ASKED)
    assert "socket" in refused.value.hint


def test_a_pod_with_the_agents_socket_is_a_tee_anchored_in_intel(ttrpc, root: Path) -> None:
    tee = detect(root=root)
    assert isinstance(tee, CocoTee)
    assert (tee.tee, tee.simulated, tee.anchor()) == ("tdx", False, INTEL)
    assert tee.own_measurement == parse_quote(tee.evidence(ASKED).quote).measurement
    with pytest.raises(TeeCapabilityError):
        tee.sealing_key("store", terms="")


def test_azure_evidence_from_the_agent_counts_only_with_both_bindings(ttrpc) -> None:
    amd = AmdVendor("Milan")

    def wrap(body: bytes) -> bytes:
        payload = field(2, field(1, body))
        return struct.pack(">IIBB", len(payload), 1, 2, 0) + payload

    ttrpc.answer = staticmethod(lambda data: wrap(azure_evidence(amd, asked=data)))
    assert ask_agent(SocketAgent(ttrpc.path), ASKED).tee == "azure-snp"
    ttrpc.answer = staticmethod(lambda data: wrap(azure_evidence(amd, asked=data, user_data=bytes(64))))
    with pytest.raises(TeeDeviceError, match="other report data"):
        ask_agent(SocketAgent(ttrpc.path), ASKED)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (field(1, b"\x08\x0d" + field(2, b"no TEE here")), "refused with code 13: no TEE here"),
        (field(2, field(1, b'{"svn":"1","report_data":"AAAA"}')), "not evidence"),
        (field(2, field(1, b"")), "not evidence"),
        (field(2, field(1, json.dumps({"attestation_report": {"version": 3}}).encode())), "not evidence"),
        (field(2, field(1, as_tdx(bytes(64)))), "other report data"),
        (b"\xff" * 12, "number that does not end"),
        (b"\x0b", "no protocol buffer"),
        (b"\x12\x7f", "cut short"),
    ],
    ids=["status", "sample", "empty", "fields", "other data", "endless number", "group", "cut"],
)
def test_whatever_else_an_agent_says_is_refused_with_its_words(ttrpc, payload: bytes, words: str) -> None:
    ttrpc.answer = staticmethod(lambda _: struct.pack(">IIBB", len(payload), 1, 2, 0) + payload)
    with pytest.raises(TeeDeviceError, match=words):
        ask_agent(SocketAgent(ttrpc.path), ASKED)


def test_other_frames_silence_and_absence_end_within_the_deadline(ttrpc, root: Path, rest) -> None:
    for frame in (struct.pack(">IIBB", 5, 3, 2, 0), struct.pack(">IIBB", 1 << 30, 1, 2, 0), b"abc"):
        ttrpc.answer = staticmethod(lambda _, frame=frame: frame)
        with pytest.raises(TeeDeviceError):
            ask_agent(SocketAgent(ttrpc.path), ASKED)
    ttrpc.delay = 2.0
    started = time.monotonic()
    with pytest.raises(TeeDeviceError, match="does not answer"):
        ask_agent(SocketAgent(ttrpc.path, seconds=0.3), ASKED)
    assert time.monotonic() - started < 1.5
    with pytest.raises(TeeDeviceError, match="does not answer"):
        ask_agent(SocketAgent(root / "nobody"), ASKED)
    with pytest.raises(TeeDeviceError, match="does not answer"):
        ask_agent(RestAgent("http://127.0.0.1:9"), ASKED)
    rest[1].status, rest[1].body = 403, b"no"
    with pytest.raises(TeeDeviceError, match="HTTP 403"):
        ask_agent(RestAgent(rest[0]), ASKED)


@pytest.mark.parametrize("url", ["http://10.0.0.1:8006", "https://127.0.0.1", "file:///etc", ""])
def test_an_agent_on_another_machine_is_never_asked(url: str) -> None:
    with pytest.raises(UsageError):
        RestAgent(url)
