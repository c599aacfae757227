"""Someone on the wire between two workers, who sees where each of our records begins and may do anything with it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from strongroom.attestation.records import HEAD_BYTES, OVERHEAD
from strongroom.workload.mesh.roster import Place

_TLS_KINDS = range(20, 24)
_TLS_HEAD = 5

Meddle = Callable[[int, bytes], list[bytes] | None]
"""Given the number of a record and its bytes, what goes on in its place; None cuts the connection."""


class Wiretap:
    """Stands at an address and passes everything on to another; records only as the meddlers let it."""

    def __init__(self, place: Place, *, forth: Meddle, back: Meddle) -> None:
        self._to = (place.host, place.port)
        self._meddle = {"forth": forth, "back": back}
        self.seen: dict[str, list[bytes]] = {"forth": [], "back": []}
        self._ends: dict[str, socket.socket] = {}
        self._door = socket.create_server(("127.0.0.1", 0))
        self.place = Place(host="127.0.0.1", port=self._door.getsockname()[1], keys=place.keys)
        threading.Thread(target=self._run, daemon=True).start()

    def inject(self, way: str, data: bytes) -> None:
        """Send bytes of one's own."""
        self._ends[way].sendall(data)

    def close(self) -> None:
        for end in (self._door, *self._ends.values()):
            _end(end)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            came, _ = self._door.accept()
            went = socket.create_connection(self._to)
            self._ends = {"forth": went, "back": came}
            for way, source, sink in (("forth", came, went), ("back", went, came)):
                threading.Thread(target=self._pass, args=(way, source, sink), daemon=True).start()

    def _pass(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        stream = source.makefile("rb")
        number = 0
        with contextlib.suppress(OSError):
            while first := stream.read(1):
                if first[0] in _TLS_KINDS:
                    head = first + stream.read(_TLS_HEAD - 1)
                    sink.sendall(head + stream.read(int.from_bytes(head[3:5], "big")))
                    continue
                head = first + stream.read(HEAD_BYTES - 1)
                record = head + stream.read(int.from_bytes(head[4:8], "little") + OVERHEAD - HEAD_BYTES)
                self.seen[way].append(record)
                passed = self._meddle[way](number, record)
                number += 1
                if passed is None:
                    break
                for one in passed:
                    sink.sendall(one)
        for end in (source, sink):
            _end(end)


def untouched(_: int, record: bytes) -> list[bytes]:
    return [record]


@contextmanager
def tapped(world, *, forth: Meddle = untouched, back: Meddle = untouched, number: int = 1) -> Iterator[tuple]:
    """The meshes of ranks 0 and 1 and the wiretap between them; ``forth`` is from rank 1, which calls, to rank 0."""
    tap = Wiretap(world.places[0], forth=forth, back=back)
    places = [tap.place, world.places[1]]
    meshes = world.together(lambda rank: world.doors[rank].open(world.roster(rank, number=number, places=places)))
    try:
        yield (*meshes, tap)
    finally:
        for mesh in meshes:
            mesh.close()
        tap.close()


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
