"""Compute the collectives of distributed training over a mesh of attested workers (spec/3-job.md §10).

Sums go round a ring in segments: while one is added, the next is on its way. Every rank gets bit for bit the same
result, for each element is added up in one place and in one order. Nothing here ever opens a connection.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

import torch

from strongroom.errors import UsageError
from strongroom.workload.mesh.links import Sent
from strongroom.workload.mesh.mesh import Mesh

SEGMENT_BYTES = 512 << 10
_STEPS = 1 << 24  # more messages than one collective can have
_POINT_TO_POINT = 1 << 63

Fold = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]

# Each is given two parts in the order of their ranks, and leaves what they make in one of them.
FOLDS: dict[str, Fold] = {
    "SUM": lambda a, b, out: torch.add(a, b, out=out),
    "AVG": lambda a, b, out: torch.add(a, b, out=out),
    "PRODUCT": lambda a, b, out: torch.mul(a, b, out=out),
    "MIN": lambda a, b, out: torch.minimum(a, b, out=out),
    "MAX": lambda a, b, out: torch.maximum(a, b, out=out),
    "BAND": lambda a, b, out: torch.bitwise_and(a, b, out=out),
    "BOR": lambda a, b, out: torch.bitwise_or(a, b, out=out),
    "BXOR": lambda a, b, out: torch.bitwise_xor(a, b, out=out),
}


class Group:
    """The ranks of one process group; ``ranks`` are those of the mesh, in order, and ``rank`` is one's own among them.

    Its collectives run one at a time, in the order that all members share; sends and receives beside them.
    """

    def __init__(self, mesh: Mesh, *, ranks: Sequence[int], name: str, deadline: float) -> None:
        self.mesh = mesh
        self.ranks = tuple(ranks)
        self.rank = self.ranks.index(mesh.rank)
        self.size = len(self.ranks)
        self._deadline = deadline
        self._stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") & ~_POINT_TO_POINT
        self._number = 0
        self._scratch = torch.empty(SEGMENT_BYTES, dtype=torch.uint8)
        self._lock = threading.Lock()

    # Each collective takes contiguous tensors of the CPU and changes them in place.

    def all_reduce(self, tensor: torch.Tensor, op: str) -> None:
        """Combine ``tensor`` of every rank by ``op`` and leave the result at every rank."""
        fold = _fold(op)
        flat = tensor.view(-1)
        with self._collective() as step:
            if self.size == 2:  # noqa: PLR2004  a pair
                self._exchange(flat, fold, step)
            elif self.size > 1:
                parts = _split(flat, self.size)
                self._reduce_round(parts, fold, step, shift=0)
                self._gather_round(parts, step, shift=1)
        _finish(flat, op, self.size)

    def reduce_scatter(self, parts: Sequence[torch.Tensor], op: str) -> None:
        """Combine ``parts``, one for each rank, over all ranks; afterwards one's own holds the result, others nothing
        of use.
        """
        fold = _fold(op)
        with self._collective() as step:
            if self.size > 1:
                self._reduce_round([part.view(-1) for part in parts], fold, step, shift=-1)
        _finish(parts[self.rank], op, self.size)

    def all_gather(self, parts: Sequence[torch.Tensor]) -> None:
        """Fill every rank's part, of which one's own is there, at every rank."""
        with self._collective() as step:
            if self.size > 1:
                self._gather_round([part.view(-1) for part in parts], step, shift=0)

    def broadcast(self, tensor: torch.Tensor, *, root: int) -> None:
        """Copy ``tensor`` of ``root`` to every rank, along a chain and segment by segment."""
        place = (self.rank - root) % self.size
        before, after = self._neighbour(-1), self._neighbour(+1)
        with self._collective() as step:
            sent = []
            for segment in _segments(tensor.view(-1)):
                number = next(step)
                if place > 0:
                    self._receive(before, number, segment)
                if place < self.size - 1:
                    sent.append(self._post(after, number, segment))
            self._settle(sent)

    def gather(self, tensor: torch.Tensor, parts: Sequence[torch.Tensor], *, root: int) -> None:
        """Fill ``parts`` of ``root`` with every rank's ``tensor``; other ranks give none."""
        with self._collective() as step:
            number = next(step)
            if self.rank != root:
                self._settle([self._post(root, number, tensor)])
                return
            for rank, part in enumerate(parts):
                if rank == root:
                    part.copy_(tensor)
                else:
                    self._receive(rank, number, part)

    def scatter(self, tensor: torch.Tensor, parts: Sequence[torch.Tensor], *, root: int) -> None:
        """Fill every rank's ``tensor`` from ``parts`` of ``root``; other ranks give none."""
        with self._collective() as step:
            number = next(step)
            if self.rank != root:
                self._receive(root, number, tensor)
                return
            self._settle([self._post(rank, number, part) for rank, part in enumerate(parts) if rank != root])
            tensor.copy_(parts[root])

    def all_to_all(self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
        """Send each rank its part of ``inputs`` and fill ``outputs`` with what each rank sends."""
        with self._collective() as step:
            number = next(step)
            sent = [self._post(rank, number, part) for rank, part in enumerate(inputs) if rank != self.rank]
            outputs[self.rank].copy_(inputs[self.rank])
            for rank, part in enumerate(outputs):
                if rank != self.rank:
                    self._receive(rank, number, part)
            self._settle(sent)

    def post(self, tensor: torch.Tensor, *, to: int, tag: int) -> Sent:
        """Send ``tensor`` to one rank, beside the collectives."""
        return self.mesh.post(self.ranks[to], (self._stream | _POINT_TO_POINT, tag), view(tensor))

    def receive(self, tensor: torch.Tensor, *, source: int, tag: int) -> None:
        """Fill ``tensor`` with what one rank sends with ``tag``, beside the collectives."""
        key = (self._stream | _POINT_TO_POINT, tag)
        self.mesh.receive(self.ranks[source], key, view(tensor), deadline=self._deadline)

    def settle(self, sent: Sent) -> None:
        """Wait until a posted tensor may be changed again."""
        sent.wait(self._deadline)

    def _exchange(self, flat: torch.Tensor, fold: Fold, step: _Steps) -> None:
        """Give the other of two ranks all of ``flat`` and combine it with theirs: as much traffic as a ring of two,
        and no second round to wait for.
        """
        first, other = next(step), 1 - self.rank
        segments = _segments(flat)
        sent = [self._post(other, first + index, segment) for index, segment in enumerate(segments)]
        for index, mine in enumerate(segments):
            theirs = self._scratch[: mine.nbytes].view(mine.dtype)
            self._receive(other, first + index, theirs)
            sent[index].wait(self._deadline)  # what is being sent must not change
            fold(*((mine, theirs) if self.rank == 0 else (theirs, mine)), mine)
        step.skip(len(segments))

    def _reduce_round(self, parts: Sequence[torch.Tensor], fold: Fold, step: _Steps, *, shift: int) -> None:
        """Pass parts on round the ring, each rank adding its own; rank r ends with part r + shift + 1 complete.

        What was added is what the next step sends, so a segment travels on as soon as it is added.
        """
        before, after = self._neighbour(-1), self._neighbour(+1)
        first = next(step)
        sent = [
            self._post(after, first + index, segment)
            for index, segment in enumerate(_segments(parts[(self.rank + shift) % self.size]))
        ]
        most = max(_count(part) for part in parts)
        for turn in range(1, self.size):
            last = turn == self.size - 1
            for index, segment in enumerate(_segments(parts[(self.rank + shift - turn) % self.size])):
                theirs = self._scratch[: segment.nbytes].view(segment.dtype)
                self._receive(before, first + (turn - 1) * most + index, theirs)
                fold(segment, theirs, segment)
                if not last:
                    sent.append(self._post(after, first + turn * most + index, segment))
        step.skip((self.size - 1) * most)
        self._settle(sent)

    def _gather_round(self, parts: Sequence[torch.Tensor], step: _Steps, *, shift: int) -> None:
        """Pass complete parts on round the ring, of which rank r has part r + shift."""
        before, after = self._neighbour(-1), self._neighbour(+1)
        first = next(step)
        most = max(_count(part) for part in parts)
        sent = [
            self._post(after, first + index, segment)
            for index, segment in enumerate(_segments(parts[(self.rank + shift) % self.size]))
        ]
        for turn in range(1, self.size):
            for index, segment in enumerate(_segments(parts[(self.rank + shift - turn) % self.size])):
                self._receive(before, first + (turn - 1) * most + index, segment)
                if turn < self.size - 1:
                    sent.append(self._post(after, first + turn * most + index, segment))
        step.skip((self.size - 1) * most)
        self._settle(sent)

    def _neighbour(self, step: int) -> int:
        return (self.rank + step) % self.size

    def _post(self, rank: int, number: int, tensor: torch.Tensor) -> Sent:
        return self.mesh.post(self.ranks[rank], (self._stream, number), view(tensor), at_once=True)

    def _receive(self, rank: int, number: int, tensor: torch.Tensor) -> None:
        self.mesh.receive(self.ranks[rank], (self._stream, number), view(tensor), deadline=self._deadline)

    def _settle(self, sent: Sequence[Sent]) -> None:
        for one in sent:
            one.wait(self._deadline)

    def _collective(self) -> _Steps:
        self._number += 1
        return _Steps(self._lock, self._number * _STEPS)


class _Steps:
    """Numbers the messages of one collective, and lets no other collective of the group run meanwhile."""

    def __init__(self, lock: threading.Lock, first: int) -> None:
        self._lock = lock
        self._next = first

    def __enter__(self) -> _Steps:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __next__(self) -> int:
        self._next += 1
        return self._next - 1

    def skip(self, count: int) -> None:
        """Leave out numbers that were given by counting."""
        self._next += count


def view(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor of the CPU, not copied."""
    flat = tensor.detach().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(bytearray())


def _fold(op: str) -> Fold:
    if op not in FOLDS:
        raise UsageError(f"the reduction {op} is not known", hint=f"use one of {', '.join(FOLDS)}")
    return FOLDS[op]


def _finish(tensor: torch.Tensor, op: str, size: int) -> None:
    if op == "AVG":
        tensor.div_(size)


def _split(flat: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Return ``count`` parts of about the same size, some perhaps empty, whose order is that of the elements."""
    each = -(-flat.numel() // count)
    return [flat[index * each : (index + 1) * each] for index in range(count)]


def _segments(flat: torch.Tensor) -> Sequence[torch.Tensor]:
    each = max(1, SEGMENT_BYTES // flat.element_size())
    return flat.split(each) if flat.numel() else ()


def _count(flat: torch.Tensor) -> int:
    return len(_segments(flat))
