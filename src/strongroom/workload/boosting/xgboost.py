"""Run a function as one worker of XGBoost's collective, which the mesh carries (spec/3-job.md §10).

XGBoost speaks TCP in the clear and has no other way. Here it speaks with this process alone, on loopback; what it
writes there leaves the process in the mesh's sealed records, and nothing of it starts before that was made sure of.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.boosting.rabit import LocalRing
from strongroom.workload.mesh.links import PeerLostError
from strongroom.workload.mesh.mesh import Mesh

T = TypeVar("T")

KNOWN_FROM, KNOWN_BEFORE = (2, 1), (3, 3)
_STREAM = int.from_bytes(b"xgboost\0", "little")
_MOST_BYTES = 512 << 10  # one record; XGBoost writes several hundred kilobytes at once
_LONGEST_SILENCE = 24 * 3600.0  # a forwarder's; XGBoost has a deadline of its own, and the mesh notices who is gone
_STARTING_SECONDS = 60.0
_ENDING_SECONDS = 10.0


class Collective:
    """Makes XGBoost's collectives over one mesh, one after the other; it and its threads may use TCP, programs not."""

    def __init__(self, mesh: Mesh, *, confine: Callable[[], object]) -> None:
        self._mesh = mesh
        self._confine = confine
        self._made = 0

    def run(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called in a confined thread of its own in which XGBoost has all ranks."""
        import_xgboost()
        self._made += 1
        ring = LocalRing(rank=self._mesh.rank, size=self._mesh.size)
        learner = _Learner(learn, ring.settings, confine=self._confine)
        learner.start()
        forwarders: list[_Forwarder] = []
        try:
            links = ring.serve()
            learner.wait_until_joined()
            ring.verify(links)
            for rank, link in links.items():
                for kind in (_Outward, _Inward):
                    forwarders.append(kind(self._mesh, rank, link, stream=_STREAM + self._made))
                    forwarders[-1].start()
            learner.begin()
            return learner.result()
        except Exception as error:
            self._raise_lost(forwarders, error)
            raise
        finally:
            learner.give_up()
            for forwarder in forwarders:
                forwarder.join(_ENDING_SECONDS if isinstance(forwarder, _Outward) else 0)
            ring.close()

    def _raise_lost(self, forwarders: list[_Forwarder], error: Exception) -> None:
        """Raise why a worker is gone, if one is: XGBoost says only that a connection was closed."""
        for forwarder in forwarders:
            if isinstance(forwarder.trouble, PeerLostError) and not isinstance(error, StrongroomError):
                self._mesh.trouble = self._mesh.trouble or forwarder.trouble
                raise forwarder.trouble from error


class _Learner(threading.Thread, Generic[T]):
    """The thread that XGBoost's collective belongs to: it joins, gives up the network, and then runs the program's."""

    def __init__(self, learn: Callable[[], T], settings: dict[str, Any], *, confine: Callable[[], object]) -> None:
        super().__init__(name="xgboost", daemon=True)
        self._learn = learn
        self._settings = settings
        self._confine = confine
        self._joined, self._may_begin = threading.Event(), threading.Event()
        self._given_up = False
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        import xgboost

        try:
            xgboost.collective.init(**self._settings)
            self._joined.set()
            self._may_begin.wait()
            if not self._given_up:
                self._confine()
                self._results.append(self._learn())
        except BaseException as error:  # noqa: BLE001  it is raised again where the result is asked for
            self._error = error
        finally:
            self._joined.set()
        # XGBoost leaves its collective when this thread ends; saying so to a tracker would need the network.

    def wait_until_joined(self) -> None:
        """Wait until it has joined the collective; raise what went wrong, or PeerLostError if nothing comes of it."""
        if not self._joined.wait(_STARTING_SECONDS):
            raise PeerLostError(f"XGBoost's collective did not start within {_STARTING_SECONDS:g} s")
        if self._error is not None:
            raise self._error

    def begin(self) -> None:
        """Let it run the program's function."""
        self._may_begin.set()

    def give_up(self) -> None:
        """Let it end, if it has not begun."""
        self._given_up = True
        self._may_begin.set()

    def result(self) -> T:
        """Return what the program's function returned, or raise what it raised."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._results[0]


class _Forwarder(threading.Thread):
    """Carries bytes of one direction between XGBoost's connection for a rank and the mesh, until they end."""

    def __init__(self, mesh: Mesh, rank: int, link: socket.socket, *, stream: int) -> None:
        super().__init__(name=f"xgboost-{type(self).__name__}-{rank}", daemon=True)
        self._mesh, self._rank, self._link, self._stream = mesh, rank, link, stream
        self.trouble: StrongroomError | None = None

    def run(self) -> None:
        try:
            self._carry()
        except StrongroomError as error:
            self.trouble = error
            self._hang_up(socket.SHUT_RDWR)
        except OSError:
            self._hang_up(socket.SHUT_RDWR)

    def _carry(self) -> None:
        raise NotImplementedError

    def _hang_up(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self._link.shutdown(how)


class _Outward(_Forwarder):
    """From XGBoost to the mesh: a message for each piece, an empty one at the end."""

    def _carry(self) -> None:
        buffer = memoryview(bytearray(_MOST_BYTES))
        number, size = 0, 1
        while size:
            size = self._read(buffer)
            self._mesh.send(self._rank, (self._stream, number), buffer[:size])
            number += 1

    def _read(self, buffer: memoryview) -> int:
        """Return how much XGBoost wrote; nothing when it left, also when it left what was for it unread."""
        try:
            return self._link.recv_into(buffer)
        except ConnectionError:
            return 0


class _Inward(_Forwarder):
    """From the mesh to XGBoost."""

    def _carry(self) -> None:
        buffer = memoryview(bytearray(_MOST_BYTES))
        number, size = 0, 1
        while size:
            key = (self._stream, number)
            size = self._mesh.receive(self._rank, key, buffer, deadline=_LONGEST_SILENCE, least=0)
            self._link.sendall(buffer[:size])
            number += 1
        self._hang_up(socket.SHUT_WR)


def import_xgboost() -> None:
    """Load XGBoost; raise UsageError if it is not there, or of a version whose collective is not known here."""
    try:
        import xgboost
    except ImportError as error:
        raise UsageError("XGBoost is not installed where the workers run", hint="install xgboost-cpu there") from error
    version = tuple(int(part) for part in xgboost.__version__.split(".")[:2])
    if not KNOWN_FROM <= version < KNOWN_BEFORE:
        raise UsageError(
            f"XGBoost {xgboost.__version__} is not known to start its collective as 2.1 to 3.2 do",
            hint="install xgboost-cpu>=2.1,<3.3 where the workers run, or learn on one worker",
        )
