"""A broker sends the proof along with its answer: a true one saves asking for it, a false one deceives nobody."""

import base64
import json
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from book import Book
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from strongroom.broker.calls import Line
from strongroom.broker.names import CHECKPOINT_HEADER, KNOWN_HEADER, PROOF_HEADER, SERVER_NAME
from strongroom.ledger.memory import CheckpointMemory, RolledBackError


class Answering(BaseHTTPRequestHandler):
    """Answers like a broker's public door; the server says from which book, and what it adds to a proof."""

    def log_message(self, *_words):
        """Say nothing."""

    def do_POST(self):
        told, book = self.server, self.server.book
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        told.asked.append(self.path)
        known = int(self.headers.get(KNOWN_HEADER, "0"))
        value = {}
        if self.path == "/v1/consistency":
            value["proof"] = [base64.b64encode(one).decode() for one in book.prove(asked["first"], asked["second"])]
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header(CHECKPOINT_HEADER, base64.b64encode(book.note().encode()).decode())
        if told.sends_proof and 0 < known < book.log.size:
            proof = told.lie or b"".join(book.prove(known, book.log.size))
            self.send_header(PROOF_HEADER, base64.b64encode(proof).decode())
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path):
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVER_NAME)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = tmp_path / "chain.pem"
    chain.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.certificate = certificate.public_bytes(serialization.Encoding.DER)
    server.book, server.asked, server.sends_proof, server.lie = Book(5), [], True, b""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def line(server, tmp_path):
    line = Line(f"https://127.0.0.1:{server.server_port}", server.certificate)
    line.remember(CheckpointMemory(tmp_path / "memory.json"), server.book.public)
    yield line
    line.close()


def call(line):
    return line.call("/v1/checkpoint", {}, again=False)


def test_proof_that_came_along_is_not_asked_for(server, line):
    for _ in range(3):
        call(line)
        server.book.grow(7)
    assert server.asked == ["/v1/checkpoint"] * 3


def test_broker_that_sends_none_is_asked_for_it(server, line):
    server.sends_proof = False
    call(line)
    server.book.grow(7)
    call(line)
    assert server.asked == ["/v1/checkpoint", "/v1/checkpoint", "/v1/consistency"]


@pytest.mark.parametrize("lie", [bytes(32), bytes(33), bytes(32 * 65)])
def test_false_proof_is_a_rollback(server, line, lie):
    call(line)
    server.book.grow(7)
    server.lie = lie
    with pytest.raises(RolledBackError):
        call(line)


def test_true_proof_of_another_history_is_a_rollback(server, line):
    call(line)
    honest = Book(12)
    server.lie = b"".join(honest.prove(5, 12))
    server.book = Book(12, word="rewritten")
    with pytest.raises(RolledBackError):
        call(line)
    assert line.memory.recall()[1].checkpoint.size == 5
