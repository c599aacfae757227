"""Somebody between a party and the broker ends the TLS connection and passes the broker's genuine evidence on."""

import json
import socket
import ssl
import threading
from datetime import UTC, datetime

import pytest
from scene import Scene

from strongroom.attestation.failures import ReportDataError
from strongroom.broker.client import BrokerClient
from strongroom.broker.keys import BrokerKeys
from strongroom.errors import StrongroomError, TransportError, UsageError
from strongroom.ledger.memory import CheckpointMemory


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("scene"))
    scene.client_ = scene.ready()
    yield scene
    scene.close()


class Relay:
    """Ends TLS with a key of its own and relays every request to the real broker."""

    def __init__(self, scene, directory):
        keys = BrokerKeys.generate(now=datetime.now(UTC))
        (directory / "cert.pem").write_bytes(keys.certificate_pem)
        (directory / "key.pem").write_bytes(keys.reveal_tls_key())
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        self._scene = scene
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.paths = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain):
        try:
            line = self._context.wrap_socket(plain, server_side=True)
            data = b""
            while b"\r\n\r\n" not in data:
                part = line.recv(65536)
                if not part:
                    return
                data += part
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(next(h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")).split(b":")[1])
            while len(body) < length:
                body += line.recv(65536)
            path = head.split(b" ")[1].decode()
            self.paths.append(path)
            answer = self._scene.client_._line._http.post(
                path, content=body, extensions={"sni_hostname": "broker.strongroom"}
            )
            note = answer.headers["strongroom-checkpoint"]
            line.sendall(
                f"HTTP/1.1 {answer.status_code} x\r\ncontent-length: {len(answer.content)}\r\n"
                f"strongroom-checkpoint: {note}\r\nconnection: close\r\n\r\n".encode()
                + answer.content
            )
            line.close()
        except (OSError, StopIteration):
            plain.close()

    def close(self):
        self._listener.close()


def attest(scene, url):
    return BrokerClient.attest(
        url,
        verifier=scene.verifier(),
        expected_measurements=[scene.measure("broker")],
        memory=CheckpointMemory(scene.directory / "relayed.json"),
    )


def test_relayed_evidence_does_not_vouch_for_the_relay(scene, tmp_path):
    relay = Relay(scene, tmp_path)
    try:
        with pytest.raises(ReportDataError):
            attest(scene, f"https://127.0.0.1:{relay.port}")
        assert set(relay.paths) == {"/v1/evidence"}
        assert not (scene.directory / "relayed.json").exists()
    finally:
        relay.close()


def test_client_pinned_to_the_broker_does_not_talk_to_whoever_took_its_port(scene, tmp_path):
    relay = Relay(scene, tmp_path)
    client = scene.client("pinned")
    try:
        client._line._http.base_url = f"https://127.0.0.1:{relay.port}"
        client._line._http.close()
        import httpx

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(client._line.certificate_der))
        client._line._http = httpx.Client(base_url=f"https://127.0.0.1:{relay.port}", verify=context)
        with pytest.raises(TransportError, match="cannot reach the broker"):
            client.submit_job(scene.job().statement)
        assert relay.paths == []
    finally:
        relay.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://", "https://x/path", "ftp://x"])
def test_only_https_addresses_are_addresses(scene, url):
    with pytest.raises(UsageError):
        attest(scene, url)


def test_nobody_at_the_address_is_a_clear_error(scene):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TransportError, match="cannot reach a broker"):
        attest(scene, f"https://127.0.0.1:{port}")


def test_something_else_at_the_address_is_a_clear_error(scene):
    listener = socket.create_server(("127.0.0.1", 0))

    def talk():
        line, _ = listener.accept()
        line.sendall(json.dumps({"hello": 1}).encode())
        line.close()

    threading.Thread(target=talk, daemon=True).start()
    with pytest.raises(StrongroomError):
        attest(scene, f"https://127.0.0.1:{listener.getsockname()[1]}")
    listener.close()
