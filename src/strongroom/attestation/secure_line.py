"""Carry length-framed JSON over mutual TLS 1.3, each operation within a deadline (spec/6-attested-channel.md §1).

TLS alone identifies nobody here: both certificates are self-signed, and only evidence says who holds their keys. There
is no older protocol, no session resumption, no early data, and no way to go on without the exporter (RFC 9266).
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from strongroom.attestation.binding import EXPORTER_BYTES
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import EvidenceError, TransportError

EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
MAX_FRAME_BYTES = 16 << 20

_HEAD_BYTES = 4
_BLOCK = 1 << 16
_RECORD = 1 << 14  # the most that one record of TLS holds, and so the most that one call reads
_PARTIAL_WRITE = 1  # SSL_MODE_ENABLE_PARTIAL_WRITE, with which one call would write one record
_LONGEST_WAIT = 1.0  # after which the operation is tried, and the deadline looked at, again
_SELF_SIGNED = 18  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
_TLS_1_3 = "TLSv1.3"
_CIPHERS = b"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

T = TypeVar("T")


class DeadlineError(TransportError):
    """The other side was too slow."""


class LineClosedError(TransportError):
    """The other side closed the connection."""


class ProtocolError(TransportError):
    """The other side does not speak the protocol."""


class ChannelBindingError(EvidenceError):
    """The TLS session gives no exporter, so evidence cannot be tied to it."""


class Exporting(Protocol):
    """What the exporter is read from."""

    def get_protocol_version_name(self) -> str:
        """Return the TLS version in use."""
        ...

    def export_keying_material(self, label: bytes, olen: int, context: bytes | None = None) -> bytes:
        """Return keying material (RFC 8446 §7.5)."""
        ...


class Deadline:
    """A point in time by which something must be done."""

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds left, never less than 0."""
        return max(0.0, self._at - time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a socket must be ready for, select.POLLIN or select.POLLOUT."""

    event: int


class SecureLine:
    """One TLS 1.3 connection; one thread may send while another receives."""

    def __init__(self, plain: socket.socket, *, keys: WorkloadKeys, server: bool) -> None:
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._plain = plain
        self.server = server
        self._tls = SSL.Connection(_context(keys), plain)
        if server:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()
        self._tls_lock = threading.Lock()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._received = bytearray()
        self._left = True  # a record may have been read in part, and its rest wait inside TLS where no poll sees it
        self._closed = False

    def shake_hands(self, deadline: Deadline) -> None:
        """Complete the TLS handshake; raise TransportError unless the other side speaks TLS 1.3 and has a key."""
        self._until(self._tls.do_handshake, deadline)

    @property
    def peer_spki(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo of the other side's certificate."""
        try:
            certificate: x509.Certificate | None = self._tls.get_peer_certificate(as_cryptography=True)
            if certificate is not None:
                return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ProtocolError("the other side's certificate cannot be read") from error
        raise ProtocolError("the other side showed no certificate")

    @property
    def exporter(self) -> bytes:
        """Return the 32 bytes that both ends of this very session share, and nobody else."""
        return read_exporter(self._tls)

    def send(self, message: dict[str, Any], deadline: Deadline, *, most: int = MAX_FRAME_BYTES) -> None:
        """Send one message."""
        self.write(encode_frame(message, most=most), deadline)

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Send ``data`` as it is, for a protocol of its own that follows the messages."""
        view = memoryview(data)
        with self._sending:
            while view:
                block = view[:_BLOCK]
                view = view[self._until(lambda part=block: self._tls.send(part), deadline) :]  # type: ignore[misc]

    def read(self, most: int, deadline: Deadline) -> bytes:
        """Return the next bytes of such a protocol, at most ``most``."""
        with self._receiving:
            if not self._received:
                if not self._left or not self.has_arrived():  # asking before something has come costs an exception
                    self._wait(select.POLLIN, deadline)
                data = self._until(lambda: self._tls.recv(most), deadline)
                if _RECORD <= len(data) < most:
                    data = self._read_on(data, most)
                self._left = len(data) == most
                return data
            data = bytes(self._received[:most])
            del self._received[:most]
            return data

    def _read_on(self, data: bytes, most: int) -> bytes:
        """Return ``data``, a whole record, and what has arrived behind it: a request may have many."""
        while len(data) < most and self.has_arrived():
            try:
                with self._tls_lock:
                    if self._closed:  # its descriptor may be somebody else's by now
                        break
                    data += self._tls.recv(most - len(data))
            except SSL.Error:  # nothing whole yet, or the end, which the next call will meet again
                break
        return data

    def has_arrived(self) -> bool:
        """Return whether something can be read at once: bytes, or that the other side closed the connection."""
        with self._tls_lock:
            if self._closed or self._received or self._tls.pending():
                return True
            return bool(select.select([self._plain], [], [], 0)[0])

    def receive(self, deadline: Deadline, *, most: int = MAX_FRAME_BYTES) -> dict[str, Any]:
        """Return the next message; after DeadlineError, what has arrived so far is kept for the next call."""
        with self._receiving:
            while (message := self.take_message(most=most)) is None:
                self._received += self._until(lambda: self._tls.recv(_BLOCK), deadline)
            return message

    def take_message(self, *, most: int) -> dict[str, Any] | None:
        """Return the next message if all of it has arrived; a broken one ends the connection."""
        if len(self._received) < _HEAD_BYTES:
            return None
        size = int.from_bytes(self._received[:_HEAD_BYTES], "little")
        if size > most:
            self._give_up()
            raise ProtocolError(f"the other side announced a message of {size} bytes, at most {most} are accepted")
        if len(self._received) < _HEAD_BYTES + size:
            return None
        body = bytes(self._received[_HEAD_BYTES : _HEAD_BYTES + size])
        del self._received[: _HEAD_BYTES + size]
        try:
            return parse_message(body)
        except ProtocolError:
            self._give_up()
            raise

    def derive(self, label: bytes, context: bytes, *, size: int) -> bytes:
        """Return ``size`` secret bytes for ``label`` and ``context``, the same at both ends of this very session."""
        try:
            with self._tls_lock:
                return bytes(self._tls.export_keying_material(label, size, context))
        except SSL.Error as error:
            raise ChannelBindingError("the TLS library gives no exporter for this session", step="channel") from error

    def leave(self) -> socket.socket:
        """Return the bare socket and end TLS on it without a word; raise ProtocolError if more had come over TLS."""
        with self._sending, self._receiving, self._tls_lock:
            if self._closed:
                raise LineClosedError("the connection was closed on this side")
            if self._received or self._tls.pending():
                raise ProtocolError("the other side said more over TLS than it may before it leaves it")
            self._closed = True
            return self._plain

    def close(self) -> None:
        """End the session and the connection; safe to call twice, and from another thread."""
        with self._tls_lock:  # so that no operation can meet a file descriptor that was given to somebody else
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(SSL.Error):
                self._tls.shutdown()  # close_notify, as far as the socket takes it
            with contextlib.suppress(OSError):
                self._plain.shutdown(socket.SHUT_RDWR)  # which also wakes a thread that waits on it
            self._plain.close()

    def _give_up(self) -> None:
        """End a connection whose other side broke the protocol; nothing of it is read again."""
        self._received.clear()
        self.close()

    def _until(self, operation: Callable[[], T], deadline: Deadline) -> T:
        """Return what ``operation`` returns, waiting for the socket as it asks."""
        while True:
            done = self.attempt(operation)
            if not isinstance(done, Wanted):
                return done
            self._wait(done.event, deadline)

    def attempt(self, operation: Callable[[], T]) -> T | Wanted:
        """Try ``operation`` once; return what it returns, or what the socket must be ready for before it can go on."""
        try:
            with self._tls_lock:
                if self._closed:
                    raise LineClosedError("the connection was closed on this side")
                return operation()
        except SSL.WantReadError:
            return Wanted(event=select.POLLIN)
        except SSL.WantWriteError:
            return Wanted(event=select.POLLOUT)
        except (SSL.ZeroReturnError, SSL.SysCallError, OSError) as error:
            raise LineClosedError("the other side closed the connection", hint="see what it says itself") from error
        except SSL.Error as error:
            reason = error.args[0][0][-1] if error.args and error.args[0] else "no reason"
            raise ProtocolError(
                f"TLS 1.3 failed: {reason}", hint="is there a Strongroom process at that address?"
            ) from error

    def _wait(self, event: int, deadline: Deadline) -> None:
        left = deadline.left
        poller = select.poll()
        try:
            poller.register(self._plain, event)
        except (ValueError, OSError) as error:  # closed by another thread
            raise LineClosedError("the connection was closed") from error
        if left <= 0:
            raise too_slow(deadline)
        poller.poll(min(left, _LONGEST_WAIT) * 1000)


def too_slow(deadline: Deadline) -> DeadlineError:
    """Return the error for a peer that let ``deadline`` pass."""
    return DeadlineError(
        f"the other side did not answer within {deadline.seconds:g} s",
        hint="is it running and reachable? otherwise allow more time",
    )


def encode_frame(message: dict[str, Any], *, most: int) -> bytes:
    """Return one message as it travels; raise ProtocolError if it is longer than ``most``."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > most:
        raise ProtocolError(f"a message has at most {most} bytes, got {len(body)}", hint="send it in parts")
    return len(body).to_bytes(_HEAD_BYTES, "little") + body


def read_exporter(session: Exporting) -> bytes:
    """Return the session's channel binding (RFC 9266 §2); raise ChannelBindingError rather than go on without."""
    version = session.get_protocol_version_name()
    if version != _TLS_1_3:
        raise ChannelBindingError(f"the session speaks {version}, expected {_TLS_1_3}", step="channel")
    try:
        exporter = session.export_keying_material(EXPORTER_LABEL, EXPORTER_BYTES, None)
    except SSL.Error as error:
        raise ChannelBindingError("the TLS library gives no exporter for this session", step="channel") from error
    if len(exporter) != EXPORTER_BYTES or not any(exporter):
        raise ChannelBindingError(f"an exporter has {EXPORTER_BYTES} bytes, got {len(exporter)}", step="channel")
    return exporter


def parse_message(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a frame; raise ProtocolError for anything else."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message is JSON, got {len(body)} other bytes") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"a message is a JSON object, got {type(message).__name__}")
    return message


def _context(keys: WorkloadKeys) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(_CIPHERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.clear_mode(_PARTIAL_WRITE)
    context.set_options(SSL.OP_NO_TICKET)
    context.use_privatekey(keys.reveal_tls_key())
    context.use_certificate(keys.certificate)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_self_signed)
    return context


def _accept_self_signed(_: SSL.Connection, __: crypto.X509, code: int, depth: int, ok: int) -> bool:
    """Accept one self-signed certificate and nothing longer; TLS itself proves possession of its key."""
    return depth == 0 and (code == _SELF_SIGNED or bool(ok))
