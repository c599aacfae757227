"""Speak the part of XGBoost's collective protocol that a worker hears when it starts (XGBoost 2.1 to 3.2).

To its one worker, :class:`LocalRing` is the tracker and every other worker, on loopback connections of this process.
What it says of addresses is made up; what the worker then sends to another is for the mesh to carry.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strongroom.errors import StrongroomError, TransportError

Address = tuple[str, int]
Ends = tuple[Address, Address]
Connections = Mapping[int, socket.socket]

_LOOPBACK = "127.0.0.1"
_MAGIC_NUMBER = 0xFF99
_HOST_BYTES = 64  # HOST_NAME_MAX of Linux, of the block that each worker passes on in the ring
_NUMBER = struct.Struct("=i")
_START = 1
_MOST_TEXT = 1 << 16


class RingError(TransportError):
    """XGBoost did not say what its collective's protocol has it say, or somebody else spoke in its place."""


class LocalRing:
    """What the worker of ``rank`` among ``size`` connects to; ``seconds`` is how long each of its steps may take."""

    def __init__(self, *, rank: int, size: int, seconds: float = 30.0) -> None:
        self._rank, self._size = rank, size
        self._seconds = seconds
        self._tracker = self._listen()
        self._doors = {other: self._listen() for other in range(rank + 1, size)}
        self._next_door = self._listen()  # for the ring in which workers tell each other their addresses
        self._open: list[socket.socket] = []
        self._ends: set[Ends] = set()
        self._port = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Return what ``xgboost.collective.init`` is to be given."""
        host, port = self._tracker.getsockname()
        return {
            "dmlc_communicator": "rabit",
            "dmlc_tracker_uri": host,
            "dmlc_tracker_port": port,
            "dmlc_task_id": str(self._rank),
            "dmlc_retry": 1,
        }

    def serve(self) -> Connections:
        """Play tracker and ring until the worker is connected with every other, as it thinks; return the connections.

        They are for use only after :meth:`verify`. Raise RingError if the worker says something else.
        """
        try:
            with self._tracker:
                tracker = self._accept(self._tracker)
                self._port, error_port = self._greet(tracker)
                self._play_ring(tracker, self._port)
            _send_number(self._dial(error_port), 0)  # ends the thread that would end the process at a stranger's word
            links = {}
            for other, door in self._doors.items():
                links[other] = self._accept(door)
                self._expect_number(links[other], self._rank)
            for other in range(self._rank):
                links[other] = self._dial(self._port)
                _send_number(links[other], other)
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            self.close()
            raise RingError(
                f"XGBoost's collective did not start as expected: {type(error).__name__}",
                hint="this release of Strongroom knows XGBoost 2.1 to 3.2",
            ) from error
        except StrongroomError:
            self.close()
            raise
        for link in links.values():
            link.settimeout(None)
        return links

    def verify(self, links: Connections) -> None:
        """Raise RingError unless each link joins this process with itself, and the worker's door let in no other.

        XGBoost listens at every address of the machine while it starts, and takes whoever comes for its neighbour. So
        this is asked when it has started, and before it has said anything of the data.
        """
        held = _held()
        if any(_ends(link)[::-1] not in held for link in links.values()):
            raise RingError("a connection of XGBoost's collective does not end in this process")
        if any(here[1] == self._port and (there, here) not in self._ends for here, there in held):
            raise RingError("somebody else connected with XGBoost's collective while it started")

    def close(self) -> None:
        """End every connection; safe to call twice."""
        for one in (self._tracker, self._next_door, *self._doors.values(), *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # which wakes a thread that waits on it
            one.close()

    def _greet(self, tracker: socket.socket) -> tuple[int, int]:
        """Hear where the worker listens, and for what the tracker has to tell it when another fails."""
        if self._expect_number(tracker, _MAGIC_NUMBER):
            _send_number(tracker, _MAGIC_NUMBER)
        _receive_text(tracker)  # its name, and that it wants a rank
        said = json.loads(_receive_text(tracker))
        if said["cmd"] != _START:
            raise RingError(f"XGBoost's worker began with command {said['cmd']}, expected {_START}")
        return int(said["port"]), int(said["error_port"])

    def _play_ring(self, tracker: socket.socket, port: int) -> None:
        """Tell the worker its rank, and be its neighbours while they would tell each other all addresses."""
        following = (self._rank + 1) % self._size
        _send_text(tracker, json.dumps({"world_size": self._size}))
        told = {"host": _LOOPBACK, "port": _port(self._next_door), "rank": following}
        _send_text(tracker, json.dumps(told))
        after, before = self._accept(self._next_door), self._dial(port)
        places = []
        for step in range(1, self._size + 1):
            # Whoever is ``step`` places before passes on where the worker after it is.
            named = (self._rank - step + 1) % self._size
            door = self._doors.get(named)
            places.append(port if named == self._rank else _port(door) if door else port)
        before.sendall(b"".join(_LOOPBACK.encode().ljust(_HOST_BYTES, b"\0") for _ in places))
        _receive(after, self._size * _HOST_BYTES)
        before.sendall(b"".join(_NUMBER.pack(place) for place in places))
        _receive(after, self._size * _NUMBER.size)

    def _listen(self) -> socket.socket:
        door = socket.create_server((_LOOPBACK, 0))
        door.settimeout(self._seconds)
        return door

    def _accept(self, door: socket.socket) -> socket.socket:
        with door:
            came, _ = door.accept()
        return self._keep(came)

    def _dial(self, port: int) -> socket.socket:
        return self._keep(socket.create_connection((_LOOPBACK, port), timeout=self._seconds))

    def _keep(self, one: socket.socket) -> socket.socket:
        one.settimeout(self._seconds)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.append(one)
        self._ends.add(_ends(one))
        return one

    def _expect_number(self, source: socket.socket, expected: int) -> bool:
        (found,) = _NUMBER.unpack(_receive(source, _NUMBER.size))
        if found != expected:
            raise RingError(f"XGBoost's worker said {found}, expected {expected}")
        return True


def _ends(one: socket.socket) -> Ends:
    return one.getsockname()[:2], one.getpeername()[:2]


def _held() -> set[Ends]:
    """Return the own and the other address of every TCP connection that this process holds."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # of one that is gone, or is no connection
            if not entry.is_socket():
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.family == socket.AF_INET and one.type == socket.SOCK_STREAM:
                    found.add(_ends(one))
    return found


def _port(door: socket.socket) -> int:
    return int(door.getsockname()[1])


def _receive(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise RingError("XGBoost's worker ended while its collective started")
        data += more
    return bytes(data)


def _receive_text(source: socket.socket) -> str:
    (size,) = _NUMBER.unpack(_receive(source, _NUMBER.size))
    if not 0 <= size <= _MOST_TEXT:
        raise RingError(f"XGBoost's worker announced a text of {size} bytes")
    return _receive(source, size).decode()


def _send_number(sink: socket.socket, number: int) -> None:
    sink.sendall(_NUMBER.pack(number))


def _send_text(sink: socket.socket, text: str) -> None:
    _send_number(sink, len(text))
    sink.sendall(text.encode())
