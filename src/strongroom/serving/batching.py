"""Compute requests that wait at the same time together, up to a number of rows (spec/8-serving.md §3).

A request that comes alone is computed at once; only where others are on their way is it worth a moment's patience.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strongroom.errors import StrongroomError, TransportError
from strongroom.workload.ending import describe_defect

ANSWER_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.5

Arrays = Mapping[str, npt.NDArray[Any]]


class BusyError(TransportError):
    """The model is busy, or stops."""


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request that waits for its rows to be computed."""

    inputs: Arrays
    rows: int
    done: threading.Event = field(default_factory=threading.Event)
    outputs: Arrays | None = None
    version: str = ""
    error: StrongroomError | None = None
    shape: tuple[tuple[str, str, tuple[int, ...]], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Note what requests computed together have in common: names, types, and shapes of one row.

        It is read off in the caller's own thread: what cannot be read off is no matter of the one that computes.
        """
        self.shape = tuple((name, tensor.dtype.str, tensor.shape[1:]) for name, tensor in self.inputs.items())


class Batcher:
    """Requests in line for the one thread that computes.

    ``most_rows`` bounds a batch; ``patience`` is for how many seconds the first request of one waits for others;
    ``most_waiting`` bounds the line.
    """

    def __init__(self, *, most_rows: int = 256, patience: float = 0.002, most_waiting: int = 1024) -> None:
        self._most_rows = most_rows
        self._patience = patience
        self._most_waiting = most_waiting
        self._line: deque[Asked] = deque()
        self._rows = 0
        self._patient = False
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # of the one that computes
        self._settled = threading.Condition(lock)  # of whoever waits for what is under way to end
        self._under_way = 0
        self._reason: StrongroomError | None = None  # why no more are taken, once they are not

    def expect(self) -> None:
        """Say that a request has begun that will be asked or dropped soon."""
        with self._changed:
            self._under_way += 1

    def drop(self) -> None:
        """Say that a request that was expected is over."""
        with self._changed:
            self._under_way -= 1
            self._wake()
            if not self._under_way:
                self._settled.notify_all()

    def settle(self, seconds: float) -> None:
        """Return once no request is under way, at the latest after ``seconds``."""
        with self._settled:
            self._settled.wait_for(lambda: not self._under_way, seconds)

    def ask(self, inputs: Arrays, *, rows: int) -> tuple[Arrays, str]:
        """Return the outputs for ``inputs`` and the version that computed them, or raise what went wrong."""
        asked = Asked(inputs=inputs, rows=rows)
        with self._changed:
            if self._reason is not None:
                raise self._reason
            if len(self._line) >= self._most_waiting:
                raise BusyError("the endpoint has more requests than it can answer", hint="ask again in a moment")
            self._line.append(asked)
            self._rows += rows
            self._wake()
        until = time.monotonic() + ANSWER_SECONDS
        while not asked.done.wait(LOOK_SECONDS):
            if self._reason is not None:  # nobody may know of this request any more: it was taken by what broke then
                raise self._reason
            if time.monotonic() >= until:
                raise BusyError(f"the model gave no answer within {ANSWER_SECONDS:.0f} s")
        if asked.error is not None:
            raise asked.error
        return asked.outputs or {}, asked.version

    def take(self) -> list[Asked]:
        """Return the next requests to compute together; none after half a second without any, or at the end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._line or self.closed, LOOK_SECONDS) or not self._line:
                return []
            if not self._enough():
                self._patient = True
                self._changed.wait_for(lambda: self._enough() or self.closed, self._patience)
                self._patient = False
                if not self._line:  # closed meanwhile
                    return []
            first = self._line.popleft()
            batch, rows, shape = [first], first.rows, first.shape
            while self._line and self._line[0].shape == shape and rows + self._line[0].rows <= self._most_rows:
                batch.append(self._line.popleft())
                rows += batch[-1].rows
            self._rows -= rows
            return batch

    def close(self, reason: StrongroomError) -> None:
        """Take no more requests, and fail those that wait; the first ``reason`` is the one that is told."""
        with self._changed:
            self._reason = reason = self._reason or reason
            waiting, self._line, self._rows = list(self._line), deque(), 0
            self._changed.notify_all()
        for asked in waiting:
            asked.error = reason
            asked.done.set()

    @property
    def closed(self) -> bool:
        """Return whether no more requests are taken."""
        return self._reason is not None

    def _enough(self) -> bool:
        """Return whether there is nothing to wait for: a whole batch, or everybody who is on the way."""
        return self._rows >= self._most_rows or len(self._line) >= self._under_way

    def _wake(self) -> None:
        """Wake the thread that computes if it has something to do now; woken for nothing, it delays the others."""
        if self._line and (not self._patient or self._enough()):
            self._changed.notify_all()


def compute(batch: Sequence[Asked], run: Callable[[Arrays, int], tuple[Arrays, str]]) -> None:
    """Compute ``batch`` by one call of ``run`` and give every request its rows, or what went wrong.

    What goes wrong with several together is tried with each alone: nobody's request spoils another's, or is told of it.
    """
    try:
        if len(batch) == 1:
            inputs: Arrays = batch[0].inputs
        else:
            inputs = {name: np.concatenate([one.inputs[name] for one in batch]) for name in batch[0].inputs}
        outputs, version = run(inputs, sum(one.rows for one in batch))
        at = 0
        for one in batch:
            one.outputs = {name: values[at : at + one.rows] for name, values in outputs.items()}
            one.version = version
            at += one.rows
    except Exception as error:  # noqa: BLE001  whatever it was, the next batch is computed
        if len(batch) > 1:
            for one in batch:
                one.outputs = None
                compute([one], run)
            return
        batch[0].error = error if isinstance(error, StrongroomError) else describe_defect(error)
    finally:
        for one in batch:
            if one.outputs is None and one.error is None:
                one.error = BusyError("the model failed")
            one.done.set()
