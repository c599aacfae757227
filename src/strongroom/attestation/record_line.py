"""Carry bytes as sealed records over the bare socket of an attested channel (spec/6-attested-channel.md §10).

One thread may send while another receives. A record is sealed straight from the caller's memory and opened straight
into it. After any error the line is dead: no number is used twice, nothing is read after what was not genuine.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from strongroom.attestation.records import (
    HEAD_BYTES,
    MOST_BYTES,
    OVERHEAD,
    TAG_BYTES,
    CutOffError,
    Kind,
    Opener,
    Sealer,
    Traffic,
)
from strongroom.attestation.secure_line import Deadline, LineClosedError, too_slow
from strongroom.errors import TransportError

SENT_BYTES = 512 << 10  # of plaintext in the records that we send: fewer calls than 128 KiB, and still in the caches
_TOGETHER_BYTES = 16 << 10  # up to which it is cheaper to copy a message behind its head than to seal it alone
_STAGED_BYTES = 4 << 10
_LONGEST_WAIT = 1.0  # after which the deadline is looked at again
_CLOSING_SECONDS = 1.0
_TIMEVAL = struct.Struct("@ll")


class RecordLine:
    """A connection of which each direction is a stream of bytes in sealed records."""

    def __init__(self, plain: socket.socket, *, outgoing: Traffic, incoming: Traffic) -> None:
        plain.setblocking(True)  # with the kernel's own timeouts, so that one call moves one record
        self._plain = plain
        self._sealer = Sealer(outgoing)
        self._opener = Opener(incoming)
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._closed = False
        self._dying = _Dying(self._hang_up)
        self._waits: dict[int, float] = {}
        self._out = memoryview(bytearray(SENT_BYTES + 2 * OVERHEAD + _TOGETHER_BYTES))
        self._sealed = memoryview(bytearray(SENT_BYTES + TAG_BYTES))
        self._staged = memoryview(bytearray(_STAGED_BYTES))
        self._from = self._to = 0  # of what is staged and not used yet
        self._rest = memoryview(b"")  # of a record that was longer than what was asked for

    def send(self, data: memoryview, deadline: Deadline, *, head: bytes = b"") -> None:
        """Send ``head`` and ``data``; a failed send ends the line."""
        with self._sending, self._dying:
            out, used = self._out, 0
            if head and len(head) + len(data) <= _TOGETHER_BYTES:
                data, head = memoryview(head + bytes(data)), b""
            if head:
                used = self._sealer.seal(Kind.DATA, memoryview(head), out)
            for start in range(0, len(data), SENT_BYTES):
                used += self._sealer.seal(Kind.DATA, data[start : start + SENT_BYTES], out[used:])
                self._push(out[:used], deadline)
                used = 0
            if used:
                self._push(out[:used], deadline)

    def receive_into(self, buffer: memoryview, deadline: Deadline) -> None:
        """Fill ``buffer`` with what comes next; any failure, also DeadlineError, ends the line."""
        with self._receiving, self._dying:
            while len(buffer):
                if len(self._rest):
                    taken = min(len(self._rest), len(buffer))
                    buffer[:taken] = self._rest[:taken]
                    self._rest = self._rest[taken:]
                else:
                    taken = self._open_next(buffer, deadline)
                buffer = buffer[taken:]

    def close(self) -> None:
        """Say that nothing more comes, if nothing is being sent, and end the connection; safe to call twice."""
        if not self._closed and self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError, TransportError):
                    used = self._sealer.seal(Kind.END, memoryview(b""), self._out)
                    self._plain.send(self._out[:used], socket.MSG_DONTWAIT)
            finally:
                self._closed = True
                self._sending.release()
        self._hang_up()
        # The descriptor is given back when nobody is in a call on it any more: its number may then be anybody's.
        got = [lock for lock in (self._sending, self._receiving) if lock.acquire(timeout=_CLOSING_SECONDS)]
        if len(got) == 2:  # noqa: PLR2004  both
            self._plain.close()
        for lock in got:
            lock.release()

    def _open_next(self, buffer: memoryview, deadline: Deadline) -> int:
        """Open the next record into ``buffer``, as far as it reaches; return how much of it was filled."""
        head = self._opener.expect(self._pull_head(deadline))
        size = head.size + TAG_BYTES
        if size > len(self._sealed):
            self._sealed = memoryview(bytearray(MOST_BYTES + TAG_BYTES))
        sealed = self._sealed[:size]
        self._pull(sealed, deadline)
        if head.size <= len(buffer) and head.kind is Kind.DATA:
            self._opener.open(head, sealed, buffer[: head.size])
            return head.size
        plain = memoryview(bytearray(head.size))
        self._opener.open(head, sealed, plain)
        if head.kind is Kind.END:
            raise LineClosedError("the other side closed the connection")
        self._rest = plain
        return 0

    def _pull_head(self, deadline: Deadline) -> memoryview:
        """Return the bytes of the next head."""
        while self._to - self._from < HEAD_BYTES:
            left = self._staged[self._from : self._to]
            self._staged[: len(left)] = left
            self._from, self._to = 0, len(left)
            self._to += self._receive(self._staged[self._to :], deadline, whole=False)
        self._from += HEAD_BYTES
        return self._staged[self._from - HEAD_BYTES : self._from]

    def _pull(self, into: memoryview, deadline: Deadline) -> None:
        """Fill ``into`` with the bytes that follow."""
        early = min(self._to - self._from, len(into))
        into[:early] = self._staged[self._from : self._from + early]
        self._from += early
        while early < len(into):
            early += self._receive(into[early:], deadline, whole=True)

    def _receive(self, into: memoryview, deadline: Deadline, *, whole: bool) -> int:
        """Return how many bytes of ``into`` came: at least one, all if ``whole`` and the peer is fast enough."""
        while True:
            self._allow(socket.SO_RCVTIMEO, deadline)
            try:
                count = self._plain.recv_into(into, len(into), socket.MSG_WAITALL if whole else 0)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost() from error
            if count == 0:
                raise self._lost()
            return count

    def _push(self, data: memoryview, deadline: Deadline) -> None:
        while len(data):
            self._allow(socket.SO_SNDTIMEO, deadline)
            try:
                data = data[self._plain.send(data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost() from error

    def _allow(self, option: int, deadline: Deadline) -> None:
        """Let the next call wait until ``deadline``, and at most a second."""
        if self._closed:
            raise LineClosedError("the connection was closed on this side")
        left = deadline.left
        if left <= 0:
            raise too_slow(deadline)
        wait = min(left, _LONGEST_WAIT)
        if self._waits.get(option) != wait:
            self._waits[option] = wait
            with contextlib.suppress(OSError):  # a socket that is gone is met by the call itself
                micros = max(1000, int(wait * 1e6))
                self._plain.setsockopt(
                    socket.SOL_SOCKET, option, _TIMEVAL.pack(micros // 1_000_000, micros % 1_000_000)
                )

    def _lost(self) -> LineClosedError:
        if self._closed:
            return LineClosedError("the connection was closed on this side")
        return CutOffError("the connection was cut off", hint="see what the other side says itself")

    def _hang_up(self) -> None:
        """Wake whoever waits on the connection, at both ends."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._plain.shutdown(socket.SHUT_RDWR)


class _Dying:
    """Hangs up when a block ends in an error."""

    __slots__ = ("_hang_up",)

    def __init__(self, hang_up: Callable[[], None]) -> None:
        self._hang_up = hang_up

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._hang_up()
