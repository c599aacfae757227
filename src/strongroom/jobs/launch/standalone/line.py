"""Speak between a job's launcher and a lent machine's agent: TLS 1.3, one JSON object a line, both ends known.

The launcher pins the agent's certificate; the agent hears a signed word of a party that its operator named, over this
certificate and a fresh nonce. Nothing secret is ever said here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from strongroom.digests import bytes_digest
from strongroom.errors import RefusedError, StrongroomError, TransportError
from strongroom.statements import PartyId, SigningKey, Statement, sign

ALIVE: Mapping[str, Any] = {"type": "alive"}
ALIVE_SECONDS = 5.0
SILENCE_SECONDS = 20.0
INTRODUCTION_SECONDS = 10.0
_SEND_SECONDS = 10.0
_MAX_LINE = 1 << 16
_KIND = "host-request"
_VERSION = 1
_YEARS = timedelta(days=3650)
_JOB = re.compile(r"sha384:[0-9a-f]{96}")


class HostLostError(TransportError):
    """A lent machine's control line broke, or nothing came over it."""


class ControlLine:
    """One end of a line; one thread may send while another receives."""

    def __init__(self, tls: ssl.SSLSocket, *, name: str) -> None:
        tls.setblocking(False)
        self._tls = tls
        self._name = name
        self._buffer = b""
        self._lock = threading.Lock()  # one TLS session is not for two threads at once
        self._sending = threading.Lock()

    @property
    def own_host(self) -> str:
        """Return the address of this machine on the line."""
        return str(self._tls.getsockname()[0])

    def shake_hands(self) -> None:
        """Shake hands; raise HostLostError if that takes more than ten seconds."""
        until = time.monotonic() + INTRODUCTION_SECONDS

        def shake() -> bool:
            self._tls.do_handshake()
            return True

        while not self._try(shake):
            self._wait(until, writing=False, seconds=INTRODUCTION_SECONDS)

    @property
    def peer_digest(self) -> str:
        """Return the digest of the certificate at the other end."""
        return bytes_digest(self._tls.getpeercert(binary_form=True) or b"")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; raise HostLostError if that takes more than ten seconds."""
        data = json.dumps(dict(message), separators=(",", ":")).encode() + b"\n"
        until = time.monotonic() + _SEND_SECONDS
        with self._sending:
            while data:
                sent: int | None = self._try(functools.partial(self._tls.send, data))
                data = data[sent or 0 :]
                if sent is None:
                    self._wait(until, writing=True, seconds=_SEND_SECONDS)

    def receive(self, *, seconds: float) -> dict[str, Any]:
        """Return the next message; raise HostLostError if none comes within ``seconds``."""
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE:
                raise HostLostError(f"{self._name} said more than {_MAX_LINE} bytes at once")
            data = self._try(lambda: self._tls.recv(_MAX_LINE))
            if data == b"":
                raise HostLostError(f"{self._name} closed the control line")
            self._buffer += data or b""
            if data is None:
                self._wait(until, writing=False, seconds=seconds)
        text, _, self._buffer = self._buffer.partition(b"\n")
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise HostLostError(f"{self._name} said something that is no message")
        return said

    def close(self) -> None:
        """End the line; safe to call twice."""
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._tls.close()

    def _try(self, act: Callable[[], Any]) -> Any:  # noqa: ANN401  what ``act`` returns
        """Return what ``act`` did, or None if it would have had to wait."""
        with self._lock:
            try:
                return act()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            except (OSError, ValueError) as error:  # ValueError: the socket was closed meanwhile
                raise HostLostError(f"the control line to {self._name} broke") from error

    def _wait(self, until: float, *, writing: bool, seconds: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise HostLostError(
                f"nothing came from {self._name} for {seconds:g} s", hint="is that machine up, and the network between?"
            )
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile: the next try says so
            ready = select.poll()
            ready.register(self._tls, select.POLLIN | (select.POLLOUT if writing else 0))
            ready.poll(1000 * min(left, 1.0))


class AgentCertificate:
    """The self-made certificate by which launchers know one lent machine; it speaks for nobody's data."""

    def __init__(self, file: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_cert_chain(file)
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        self.digest = bytes_digest(certificate.public_bytes(serialization.Encoding.DER))

    @classmethod
    def keep(cls, directory: Path) -> AgentCertificate:
        """Return the certificate kept in ``directory``, made at the first use; its key is readable by its owner."""
        file = directory / "agent.pem"
        if not file.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = directory / f".agent-{secrets.token_hex(4)}"
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(_make_certificate())
            draft.replace(file)
        return cls(file)

    def accept(self, plain: socket.socket, *, admits: Collection[PartyId]) -> tuple[ControlLine, str]:
        """Return the line to a launcher and its job's digest; raise RefusedError if its party was not named."""
        tls = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        line = ControlLine(tls, name="the launcher")
        try:
            return line, self._hear_out(line, admits)
        except BaseException:
            line.close()
            raise

    def _hear_out(self, line: ControlLine, admits: Collection[PartyId]) -> str:
        line.shake_hands()
        nonce = secrets.token_hex(32)
        line.send({"type": "hello", "version": _VERSION, "nonce": nonce})
        said = line.receive(seconds=INTRODUCTION_SECONDS)
        statement = Statement.decode(str(said.get("statement")))
        asked = statement.open(kind=_KIND, version=_VERSION, signer=None)
        if statement.party_fingerprint not in {party.fingerprint for party in admits}:
            refusal = f"this machine is not lent to party {statement.party_fingerprint}"
            line.send({"type": "refused", "why": refusal})
            raise RefusedError(refusal, reasons=(refusal,))
        if asked != {"agent": self.digest, "nonce": nonce, "job": asked.get("job")}:
            raise RefusedError("the request was signed for another machine", reasons=("agent or nonce differ",))
        job = str(asked["job"])
        if not _JOB.fullmatch(job):
            raise RefusedError("the request names no job", reasons=("its digest is sha384: and 96 hex digits",))
        return job


def connect(address: tuple[str, int], *, certificate: str, key: SigningKey, job_digest: str) -> tuple[ControlLine, int]:
    """Return the line to the agent at ``address`` and how many processes it lends.

    Raise HostLostError if nobody answers, or somebody with another certificate, RefusedError if it is not lent to us.
    """
    name = f"{address[0]}:{address[1]}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # one certificate is pinned below, whoever signed it
    try:
        plain = socket.create_connection(address, timeout=INTRODUCTION_SECONDS)
    except OSError as error:
        raise HostLostError(
            f"cannot reach {name}: {error.strerror or error}", hint="does `strongroom worker join` run there?"
        ) from error
    line = ControlLine(context.wrap_socket(plain, do_handshake_on_connect=False), name=name)
    try:
        line.shake_hands()
        if not secrets.compare_digest(line.peer_digest, certificate):
            raise HostLostError(
                f"{name} has certificate {line.peer_digest}, expected {certificate}",
                hint="somebody else answers there, or its operator made a new one: ask for it",
            )
        nonce = str(line.receive(seconds=INTRODUCTION_SECONDS).get("nonce"))
        asked = {"agent": certificate, "nonce": nonce, "job": job_digest}
        line.send({"type": "place", "statement": sign(asked, kind=_KIND, version=_VERSION, key=key).encode()})
        said = line.receive(seconds=INTRODUCTION_SECONDS)
        if said.get("type") != "welcome":
            why = str(said.get("why", "no reason was given"))[:300]
            raise RefusedError(f"{name} lends us nothing", reasons=(why,), hint="ask its operator to admit your party")
        return line, int(said["most"])
    except (StrongroomError, KeyError, TypeError, ValueError, OverflowError) as error:
        line.close()
        if isinstance(error, StrongroomError):
            raise
        raise HostLostError(f"{name} said something that is no message") from error


def _make_certificate() -> bytes:
    """Return a new P-256 key and its self-signed certificate, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "strongroom lent host")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _YEARS)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + made.public_bytes(serialization.Encoding.PEM)
