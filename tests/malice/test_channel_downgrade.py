"""The attacker tries older TLS, session resumption, plaintext, or a session without an exporter."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from strongroom.attestation.introduction import Greeting
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import (
    ChannelBindingError,
    Deadline,
    LineClosedError,
    ProtocolError,
    SecureLine,
    read_exporter,
)
from strongroom.attestation.workload_keys import WorkloadKeyError, WorkloadKeys
from strongroom.testing import listen_as, simulated_platform

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def driver():
    with simulated_platform() as platform, listen_as("driver", platform=platform, job_digest=JOB) as driver:
        yield driver


@pytest.fixture
def context(tmp_path):
    keys = WorkloadKeys.generate()
    key = keys.reveal_tls_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "pem").write_bytes(key + keys.certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(tmp_path / "pem")
    return context


def drained(line):
    """Return the driver's greeting, by which time any session ticket has arrived too."""
    size = struct.unpack("<I", line.recv(4))[0]
    while size > 0:
        size -= len(line.recv(size))
    return line


def test_tls_1_2_is_refused(driver, context):
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(driver.address) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


def test_a_client_without_a_certificate_is_refused(driver):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(driver.address, timeout=15) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain).recv(1)


def test_a_session_is_never_resumed(driver, context):
    with context.wrap_socket(socket.create_connection(driver.address, timeout=15)) as line:
        session = drained(line).session
    with context.wrap_socket(socket.create_connection(driver.address, timeout=15), session=session) as line:
        assert not drained(line).session_reused


def test_plaintext_is_refused(driver):
    keys = WorkloadKeys.generate()
    server = socket.create_server(("127.0.0.1", 0))
    client = SecureLine(socket.create_connection(server.getsockname()), keys=keys, server=False)
    server.accept()[0].sendall(b"\x02\x00\x00\x00{}HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(ProtocolError):
        client.shake_hands(Deadline(15))


class Session:
    """A TLS session as a faulty or older library would show it."""

    def __init__(self, *, version="TLSv1.3", exporter=b"e" * 32, error=None):
        self.version, self.exporter, self.error = version, exporter, error

    def get_protocol_version_name(self):
        return self.version

    def export_keying_material(self, label, olen, context=None):
        if self.error:
            raise self.error
        return self.exporter


def test_the_exporter_is_read_from_a_sound_session():
    assert read_exporter(Session()) == b"e" * 32


@pytest.mark.parametrize(
    "session",
    [
        Session(version="TLSv1.2"),
        Session(version="SSLv3"),
        Session(exporter=b""),
        Session(exporter=b"e" * 16),
        Session(exporter=bytes(32)),
        Session(error=SSL.Error([("ssl", "export", "no exporter")])),
    ],
)
def test_without_an_exporter_there_is_no_channel(session):
    with pytest.raises(ChannelBindingError):
        read_exporter(session)


def test_before_the_handshake_there_is_no_exporter():
    server = socket.create_server(("127.0.0.1", 0))
    line = SecureLine(socket.create_connection(server.getsockname()), keys=WorkloadKeys.generate(), server=False)
    with pytest.raises(ChannelBindingError):
        line.exporter  # noqa: B018


@pytest.mark.parametrize("kind", ["rsa", "p384", "chain"])
def test_a_certificate_of_another_kind_is_refused(driver, kind, tmp_path):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    issuer_key = ec.generate_private_key(ec.SECP256R1())
    key = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "chain": lambda: ec.generate_private_key(ec.SECP256R1()),
    }[kind]()

    def issue(public, signer, issuer):
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(1)
            .not_valid_before(datetime(2025, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2045, 1, 1, tzinfo=UTC))
            .sign(signer, hashes.SHA256())
        )

    above = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody's authority")])
    certificate = issue(key.public_key(), issuer_key if kind == "chain" else key, above if kind == "chain" else name)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(tmp_path / "pem")
    with context.wrap_socket(socket.create_connection(driver.address, timeout=15)) as line:
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        honest = Greeting.fresh(role=Role.WORKER, keys=WorkloadKeys.generate().public).to_json()
        greeting = json.dumps({**honest, "signing_key": base64.b64encode(spki).decode()}).encode()
        with contextlib.suppress(OSError):
            line.sendall(struct.pack("<I", len(greeting)) + greeting)
        while True:
            try:
                driver.accept(deadline=15)
            except (ProtocolError, WorkloadKeyError):
                return
            except LineClosedError:  # what an earlier attacker left behind
                continue
