"""Carry numbered messages of bare bytes in each direction between two workers (spec/3-job.md §10).

A message is a head of 24 bytes (stream, number, size; u64 little endian each) and its bytes, sent from and received
into buffers of the caller, as sealed records. The two directions share a connection, and no lock and no key.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from queue import SimpleQueue

from strongroom.attestation.record_line import RecordLine
from strongroom.attestation.secure_line import Deadline
from strongroom.errors import StrongroomError, TransportError, UsageError

_HEAD = struct.Struct("<QQQ")
_PLAIN_BYTES = 32 << 10  # below that, handing a message to another thread takes longer than sending it
_MOST_KEPT_BYTES = 1 << 30
_LONGEST_SILENCE = 24 * 3600.0  # a link's own; whoever waits for a message has a deadline

Key = tuple[int, int]


class PeerLostError(TransportError):
    """A worker of the mesh is gone, or the mesh was closed."""


class Sent:
    """A message on its way: its buffer must not change before :meth:`wait` returns."""

    __slots__ = ("_done", "_error")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._error: StrongroomError | None = None

    def settle(self, error: StrongroomError | None = None) -> None:
        """Note that it was sent, or why not."""
        self._error = error
        self._done.set()

    def wait(self, deadline: float) -> None:
        """Wait until the buffer may be used again; raise PeerLostError if it was not sent within ``deadline`` s."""
        if not self._done.wait(deadline):
            raise PeerLostError(f"a worker took nothing for {deadline:g} s")
        if self._error is not None:
            raise self._error


class OutgoingLink:
    """The direction from here to the worker of rank ``rank``; messages leave in the order they were posted."""

    def __init__(self, line: RecordLine, *, rank: int) -> None:
        self.rank = rank
        self._line = line
        self._waiting: SimpleQueue[tuple[Key, memoryview, Sent] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._queued = 0
        self._lost: PeerLostError | None = None
        threading.Thread(target=self._run, name=f"mesh-to-{rank}", daemon=True).start()

    def post(self, key: Key, data: memoryview, *, at_once: bool = False) -> Sent:
        """Send ``data``, now if it is small and ``at_once``, otherwise as soon as what was posted before is gone."""
        with self._lock:
            if not at_once or self._queued or len(data) > _PLAIN_BYTES:
                return self._enqueue(key, data)
            sent = Sent()
            self._settle(key, data, sent)
            return sent

    def send(self, key: Key, data: memoryview) -> None:
        """Send ``data`` in this very thread, after what was posted before; raise PeerLostError if it cannot be sent.

        For a thread that does nothing else: it waits for as long as the other worker takes nothing.
        """
        with self._lock:
            if self._queued == 0:
                self._send(key, data)
                return
            sent = self._enqueue(key, data)
        sent.wait(_LONGEST_SILENCE)

    @property
    def broken(self) -> bool:
        """Return whether the other worker was lost."""
        return isinstance(self._lost, PeerLostError)

    def close(self) -> None:
        """End the direction, and tell whoever waits for what was not sent; safe to call twice."""
        self._line.close()
        with self._lock:
            self._lost = self._lost or PeerLostError("the mesh was closed")
            self._waiting.put(None)

    def _enqueue(self, key: Key, data: memoryview) -> Sent:
        sent = Sent()
        if self._lost is not None:  # and after a close nobody takes anything from the queue
            sent.settle(self._lost)
            return sent
        self._queued += 1
        self._waiting.put((key, data, sent))
        return sent

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            self._settle(*waiting)
            with self._lock:
                self._queued -= 1

    def _settle(self, key: Key, data: memoryview, sent: Sent) -> None:
        try:
            self._send(key, data)
        except StrongroomError as error:
            sent.settle(error)
        else:
            sent.settle()

    def _send(self, key: Key, data: memoryview) -> None:
        if self._lost is not None:
            raise self._lost
        try:
            self._line.send(data, Deadline(_LONGEST_SILENCE), head=_HEAD.pack(*key, len(data)))
        except StrongroomError as error:
            self._lost = lost(self.rank, error)
            raise self._lost from error


class IncomingLink:
    """The direction from the worker of rank ``rank`` to here; several threads may wait for messages of it at once.

    Whoever waits reads. What it reads for somebody else, or too early, is kept until it is asked for.
    """

    def __init__(self, line: RecordLine, *, rank: int) -> None:
        self.rank = rank
        self._line = line
        self._changed = threading.Condition()
        self._reading = False
        self._kept: dict[Key, deque[bytearray]] = {}
        self._kept_bytes = 0
        self._lost: StrongroomError | None = None

    def receive(self, key: Key, into: memoryview, *, deadline: float, least: int | None = None) -> int:
        """Fill ``into`` with the next message called ``key``; raise PeerLostError if none comes within ``deadline``.

        The message fills all of it, or, where ``least`` is given, at least so many bytes; return how many.
        """
        until = time.monotonic() + deadline
        expected = range(len(into) if least is None else least, len(into) + 1)
        while True:
            with self._changed:
                if (taken := self._take(key, into, expected)) is not None:
                    return taken
                if self._lost is not None:
                    raise self._lost
                if self._reading:
                    self._wait(key, until)
                    continue
                self._reading = True
            try:
                if (taken := self._read_one(key, into, until, expected)) is not None:
                    return taken
            except StrongroomError as error:
                with self._changed:
                    self._lost = self._lost or (error if isinstance(error, UsageError) else lost(self.rank, error))
            finally:
                with self._changed:
                    self._reading = False
                    self._changed.notify_all()

    @property
    def broken(self) -> bool:
        """Return whether the other worker was lost."""
        return isinstance(self._lost, PeerLostError)

    def close(self) -> None:
        """End the direction; safe to call twice."""
        self._line.close()

    def _wait(self, key: Key, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0 or not self._changed.wait(left):
            raise PeerLostError(
                f"worker {self.rank} did not send what was expected of it in time",
                hint=_out_of_step(key, self._kept),
            )

    def _take(self, key: Key, into: memoryview, expected: range) -> int | None:
        kept = self._kept.get(key)
        if not kept:
            return None
        data = kept.popleft()
        if not kept:
            del self._kept[key]
        self._kept_bytes -= len(data)
        _expect_size(self.rank, len(data), expected)
        into[: len(data)] = data
        return len(data)

    def _read_one(self, key: Key, into: memoryview, until: float, expected: range) -> int | None:
        """Read one message; return its size if it was the one called ``key``."""
        head = bytearray(_HEAD.size)
        self._line.receive_into(memoryview(head), Deadline(until - time.monotonic()))
        stream, number, size = _HEAD.unpack(head)
        rest = Deadline(max(1.0, until - time.monotonic()))
        if (stream, number) == key:
            _expect_size(self.rank, size, expected)
            self._line.receive_into(into[:size], rest)
            return int(size)
        if self._kept_bytes + size > _MOST_KEPT_BYTES:
            raise UsageError(
                f"worker {self.rank} sent {_MOST_KEPT_BYTES >> 30} GiB that nobody here asked for",
                hint="all workers must call the same collectives in the same order",
            )
        data = bytearray(size)
        self._line.receive_into(memoryview(data), rest)
        with self._changed:
            self._kept.setdefault((stream, number), deque()).append(data)
            self._kept_bytes += size
        return None


def lost(rank: int, error: StrongroomError) -> PeerLostError:
    """Return the error that says that the worker of ``rank`` is gone, because of ``error``."""
    if isinstance(error, PeerLostError):
        return error
    made = PeerLostError(f"worker {rank} is gone: {error.message}", hint="the driver has it replaced, and begins again")
    made.__cause__ = error
    return made


def _expect_size(rank: int, got: int, expected: range) -> None:
    if got not in expected:
        most = expected.stop - 1
        raise UsageError(
            f"worker {rank} sent {got} bytes where {'at most ' if expected.start < most else ''}{most} were expected",
            hint="all workers must call the same collectives, in the same order, with tensors of the same size",
        )


def _out_of_step(key: Key, kept: dict[Key, deque[bytearray]]) -> str:
    if not kept:
        return "is it still at work, or does it call fewer collectives than the others?"
    return f"it sent {len(kept)} other messages: all workers must call the same collectives (waiting for {key[1]:#x})"
