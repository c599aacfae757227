"""Let LightGBM's network be the mesh: it takes two collectives as functions and opens no socket (spec/3-job.md §10).

Both are computed in the order of ranks, so that all workers get the same bits.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.mesh.mesh import Mesh

T = TypeVar("T")

_STREAM = int.from_bytes(b"lightgbm", "little") & ~(1 << 63)
_SECONDS = 1800.0
# LightGBM's include/LightGBM/meta.h: comm_size_t is int32, and a reducer comes as a reference to a function's pointer.
_Sizes = ctypes.POINTER(ctypes.c_int32)
_Reduce = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int32)
_ReduceScatter = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int,
    _Sizes,
    _Sizes,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.POINTER(_Reduce),
)
_Allgather = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int32, _Sizes, _Sizes, ctypes.c_int, ctypes.c_void_p, ctypes.c_int32
)


class Network:
    """LightGBM's collectives over one mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._number = 0

    def run(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called in a thread of its own in which LightGBM's network is the mesh.

        LightGBM cannot be told that a collective failed. When one does, that thread waits for ever where it is, with
        what it holds, and the failure is raised here.
        """
        ended: SimpleQueue[T | BaseException] = SimpleQueue()
        library = import_lightgbm()
        work = partial(self._learn, library, learn, ended)
        threading.Thread(target=work, name="lightgbm", daemon=True).start()
        found = ended.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def _learn(self, library: ctypes.CDLL, learn: Callable[[], T], ended: SimpleQueue[T | BaseException]) -> None:
        collectives = _Collectives(self._mesh, ended.put, first=self._number)
        functions = _ReduceScatter(collectives.reduce_scatter), _Allgather(collectives.allgather)
        pointers = [ctypes.cast(function, ctypes.c_void_p) for function in functions]
        try:
            _expect_taken(library.LGBM_NetworkInitWithFunctions(self._mesh.size, self._mesh.rank, *pointers))
            try:
                result = learn()
            finally:
                library.LGBM_NetworkFree()
                self._number = collectives.number
        except BaseException as error:  # noqa: BLE001  it is raised where the result is waited for
            ended.put(error)
        else:
            ended.put(result)


class _Collectives:
    """The two functions that LightGBM calls; ``on_failure`` hears why one cannot be computed, and it never returns."""

    def __init__(self, mesh: Mesh, on_failure: Callable[[StrongroomError], None], *, first: int) -> None:
        self._mesh = mesh
        self._on_failure = on_failure
        self.number = first

    def reduce_scatter(  # noqa: PLR0917  LightGBM's ReduceScatterFunction
        self,
        given: int,
        _: int,
        width: int,
        starts: Sequence[int],
        lengths: Sequence[int],
        count: int,
        into: int,
        __: int,
        reduce: Any,  # noqa: ANN401  a pointer to a function of C
    ) -> None:
        """Combine every worker's block for this rank, in the order of ranks, into ``into``."""
        rank, combine = self._mesh.rank, reduce.contents
        own = _view(given + starts[rank], lengths[rank])
        blocks = {other: _view(given + starts[other], lengths[other]) for other in range(count) if other != rank}
        received = {other: bytearray(lengths[rank]) for other in blocks}
        self._exchange(blocks, {other: memoryview(data) for other, data in received.items()})
        found = _view(into, lengths[rank])
        for other in range(count):
            block = own if other == rank else memoryview(received[other])
            if other == 0:
                found[:] = block
            else:
                combine(_address(block), into, width, lengths[rank])

    def allgather(  # noqa: PLR0917  LightGBM's AllgatherFunction
        self, given: int, size: int, starts: Sequence[int], lengths: Sequence[int], count: int, into: int, _: int
    ) -> None:
        """Put every worker's block where it belongs in ``into``."""
        rank, own = self._mesh.rank, _view(given, size)
        into_each = {other: _view(into + starts[other], lengths[other]) for other in range(count)}
        mine = into_each.pop(rank)
        if _address(mine) != given:
            mine[:] = own
        self._exchange(dict.fromkeys(into_each, own), into_each)

    def _exchange(self, give: dict[int, memoryview], take: dict[int, memoryview]) -> None:
        """Send each other worker what is for it, and take what it sends."""
        self.number += 1
        key = (_STREAM, self.number)
        try:
            sent = [self._mesh.post(rank, key, data, at_once=True) for rank, data in give.items()]
            for rank, data in take.items():
                self._mesh.receive(rank, key, data, deadline=_SECONDS)
            for one in sent:
                one.wait(_SECONDS)
        except StrongroomError as error:
            self._mesh.trouble = self._mesh.trouble or error
            self._on_failure(error)
            threading.Event().wait()  # for ever: to go on with made-up numbers would crash LightGBM, or mislead it


def import_lightgbm() -> ctypes.CDLL:
    """Load LightGBM and return its library; raise UsageError if it is not there."""
    try:
        from lightgbm.basic import _LIB
    except ImportError as error:
        raise UsageError("LightGBM is not installed where the workers run", hint="install lightgbm there") from error
    library: ctypes.CDLL = _LIB
    return library


def _expect_taken(code: int) -> None:
    if code != 0:
        raise UsageError("LightGBM would not take the mesh for its network")


def _view(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _address(data: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data))
