"""Load a model by the approved program and compute with it, in threads that reach neither network nor disk.

A new version is loaded beside the one that answers and takes its place between two batches. What a program raises stays
inside: only the kind of error and the program's line are told (spec/3-job.md §8).
"""

from __future__ import annotations

import json
import queue
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from strongroom.errors import StrongroomError, UsageError
from strongroom.policy.document import ServingRules
from strongroom.serving.answers import limit_outputs
from strongroom.serving.batching import LOOK_SECONDS, Arrays, Batcher, BusyError, compute
from strongroom.serving.declared import Declared, read_declared
from strongroom.workload.collectives import guard_collectives
from strongroom.workload.confinement import confine
from strongroom.workload.ending import describe_defect
from strongroom.workload.files import InputFiles
from strongroom.workload.program import describe_failure, describe_raise, learn_meanings

CHAT_THREADS: Final = 2
PIECE_SECONDS: Final = 60.0
_FILE: Final = "program.py"
_END: Final = object()
_LEAST_KEPT: Final = 256

T = TypeVar("T")


class UnknownModelError(UsageError):
    """No file of the input is a model of a known format, so the program has to define load(files)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One version of a model, ready to answer."""

    version: str
    names: str  # each input as name@version, for the ledger
    model: Any = field(repr=False)
    predict: Callable[..., Any] | None
    chat: Callable[..., Any] | None
    declared: Declared


def load_version(source: bytes, files: Mapping[str, InputFiles], *, version: str, names: str) -> Loaded:
    """Run the program, let it load the model in ``files`` (by input), and return it; raise ProgramError if it fails."""
    learn_meanings()
    guard_collectives()
    declared = read_declared(source)
    module = types.ModuleType("served_program")
    try:
        exec(compile(source, _FILE, "exec"), module.__dict__)  # noqa: S102  running an approved program is what a job is
        given: Any = files if len(files) > 1 else next(iter(files.values()))
        load = getattr(module, "load", None)
        model = load(given) if callable(load) else load_known(given)
    except Exception as error:
        raise describe_failure(error) from error
    found = Loaded(
        version=version,
        names=names,
        model=model,
        predict=_callable(module, "predict"),
        chat=_callable(module, "chat"),
        declared=declared,
    )
    if found.predict is None and found.chat is None:
        raise UsageError("the program defines neither predict nor chat", hint="define predict(model, inputs)")
    return found


def load_known(files: InputFiles) -> Any:  # noqa: ANN401  each library has its own models
    """Return the model in ``files`` by its format: XGBoost, LightGBM, safetensors, or JSON."""
    names = [name for name in files if Path(name).name != "model-card.json"]
    chosen = next((name for name in names if Path(name).stem == "model"), names[0] if len(names) == 1 else "")
    suffix = Path(chosen).suffix
    if suffix in {".ubj", ".json"} and Path(chosen).stem == "model":
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(bytearray(files[chosen].read()))
        return booster
    if suffix == ".txt":
        import lightgbm

        return lightgbm.Booster(model_str=files[chosen].read().decode())
    if suffix == ".safetensors":
        from safetensors.numpy import load

        return load(files[chosen].read())
    if suffix == ".json":
        return json.loads(files[chosen].read())
    raise UnknownModelError(
        f"no file among {sorted(files)[:8]} is a model of a known format", hint="define load(files)"
    )


class Model:
    """The model that answers: its threads, its line of requests, and the version in use."""

    def __init__(self, source: bytes, *, rules: ServingRules, writable: Sequence[Path], batcher: Batcher) -> None:
        self._source = source
        self._rules = rules
        self._writable = tuple(writable)
        self._batcher = batcher
        self._loaded: Loaded | None = None
        self._talks: queue.Queue[_Talk] = queue.Queue(64)
        self._over = threading.Event()
        self._reason: StrongroomError | None = None
        self._broken: StrongroomError | None = None

    @property
    def loaded(self) -> Loaded:
        """Return the version in use; raise BusyError if there is none (any more)."""
        loaded = self._loaded
        if loaded is None:
            raise BusyError("no model is loaded")
        return loaded

    @property
    def rules(self) -> ServingRules:
        """Return the owners' rules of the last window that was opened, by which every answer is cut."""
        return self._rules

    def obey(self, rules: ServingRules) -> None:
        """Cut answers by ``rules`` from now on, whichever version computed them."""
        self._rules = rules

    @property
    def ready(self) -> bool:
        """Return whether the model answers."""
        return self._loaded is not None and not self._batcher.closed

    @property
    def broken(self) -> StrongroomError | None:
        """Return what ended a thread that computes, if one was: nobody is answered any more, and all were told."""
        return self._broken

    def start(self) -> None:
        """Begin to answer."""
        for name, work in (("model", self._answer), *((f"chat-{n}", self._talk) for n in range(CHAT_THREADS))):
            threading.Thread(target=self._confined, args=(work,), name=name, daemon=True).start()

    def replace(self, files: Mapping[str, InputFiles], *, version: str, names: str) -> Loaded:
        """Load a version in a thread of its own and let it take over; raise what is wrong with it."""
        loaded = _run_apart(
            lambda: load_version(self._source, files, version=version, names=names), writable=self._writable
        )
        self._loaded = loaded
        return loaded

    def chat(self, loaded: Loaded, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Iterator[str]:
        """Return the pieces that the program generates, as they come; closing the iterator stops it."""
        if loaded.chat is None:
            raise UsageError("this model does not chat", hint="POST /v2/models/NAME/infer")
        # Whoever reads slowly holds none of the few threads that generate: all that it may have fits in between.
        said: queue.Queue[Any] = queue.Queue(max(_LEAST_KEPT, int(settings.get("max_tokens", 0)) + 2))
        talk = _Talk(
            loaded=loaded,
            generate=loaded.chat,
            messages=messages,
            settings=settings,
            said=said,
            reason=lambda: self._reason,
        )
        try:
            self._talks.put_nowait(talk)
        except queue.Full as error:
            raise BusyError("the endpoint has more conversations than it can hold", hint="ask again later") from error
        return talk.pieces()

    def close(self, reason: StrongroomError) -> None:
        """Forget the model and fail every request and conversation that waits."""
        self._reason = self._reason or reason
        self._over.set()
        self._batcher.close(reason)
        self._loaded = None

    def _confined(self, work: Callable[[], None]) -> None:
        """Do ``work`` confined; should that ever break, those who wait for it are told why, and no more come."""
        try:
            confine(self._writable, keep_signals=True)
            work()
        except BaseException as error:  # noqa: BLE001  of whatever kind, nobody would compute any more
            self._broken = error if isinstance(error, StrongroomError) else describe_defect(error)
            self.close(self._broken)

    def _answer(self) -> None:
        while not self._over.is_set():
            batch = self._batcher.take()
            if batch:
                compute(batch, self._run)

    def _run(self, inputs: Arrays, rows: int) -> tuple[Arrays, str]:
        loaded = self.loaded
        if loaded.predict is None:
            raise UsageError("this model only chats", hint="POST /v1/chat/completions")
        try:
            given = loaded.predict(loaded.model, dict(inputs))
            # Plain arrays: from here on nothing of the program is called, so what is raised below is ours.
            outputs = {name: np.asarray(one) for name, one in given.items()} if isinstance(given, Mapping) else {}
        except BaseException as error:
            raise describe_raise(error) from error  # a program can have any function of ours say what it likes
        return limit_outputs(outputs, rows=rows, rules=self._rules, declared=loaded.declared), loaded.version

    def _talk(self) -> None:
        while not self._over.is_set():
            try:
                talk = self._talks.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            talk.run(self._over)


@dataclass(slots=True, kw_only=True)
class _Talk:
    """One generation: pieces come from a confined thread and go to the one that answers."""

    loaded: Loaded
    generate: Callable[..., Any]
    messages: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    said: queue.Queue[Any]
    reason: Callable[[], StrongroomError | None]  # why nobody generates any more, once nobody does
    left: threading.Event = field(default_factory=threading.Event)

    def run(self, over: threading.Event) -> None:
        """Generate until the end, or until nobody listens."""
        try:
            for piece in self.generate(self.loaded.model, list(self.messages), dict(self.settings)):
                if not self._say((piece, None), over):
                    return
            self._say(_END, over)
        except BaseException as error:  # noqa: BLE001  whatever the program raises is told as what may be said of it
            self._say((None, describe_raise(error)), over)

    def pieces(self) -> Iterator[str]:
        """Yield the pieces; raise what went wrong."""
        try:
            while (said := self._next_said()) is not _END:
                piece, failure = said  # apart, for a program could yield an error of ours that says what it likes
                if failure is not None:
                    raise failure
                yield piece
        finally:
            self.left.set()

    def _next_said(self) -> Any:  # noqa: ANN401  a piece or a failure, or the end
        until = time.monotonic() + PIECE_SECONDS
        while True:
            try:
                return self.said.get(timeout=LOOK_SECONDS)
            except queue.Empty as error:
                if (reason := self.reason()) is not None:
                    raise reason from None
                if time.monotonic() >= until:
                    raise BusyError(f"the model said nothing for {PIECE_SECONDS:.0f} s") from error

    def _say(self, said: object, over: threading.Event) -> bool:
        while not (self.left.is_set() or over.is_set()):
            try:
                self.said.put(said, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def _callable(module: types.ModuleType, name: str) -> Callable[..., Any] | None:
    found = getattr(module, name, None)
    return found if callable(found) else None


def _run_apart(work: Callable[[], T], *, writable: Sequence[Path]) -> T:
    """Return what ``work`` returns in a thread that is confined for the rest of its life."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            confine(writable, keep_signals=True)
            results.append(work())
        except BaseException as error:  # noqa: BLE001  raised again below
            failures.append(error)

    thread = threading.Thread(target=run, name="load", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
