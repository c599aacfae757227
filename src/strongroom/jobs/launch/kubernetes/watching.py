"""Keep in mind what the cluster says about one job's pods: listed once, watched ever after, listed anew when needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from strongroom.errors import StrongroomError, TransportError
from strongroom.jobs.launch.kubernetes.api import Cluster, ClusterRefusedError, WatchGoneError

_PAUSE_SECONDS = 1.0
_UNREACHABLE_SECONDS = 60.0

Object = dict[str, Any]


class PodWatch:
    """The pods with a label, by name, as they were last seen; ``on_change`` is called after each change."""

    def __init__(self, cluster: Cluster, *, labels: str, on_change: Callable[[], None]) -> None:
        self._cluster = cluster
        self._labels = labels
        self._on_change = on_change
        self._pods: dict[str, Object] = {}
        self._lost: dict[str, Object] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._trouble: StrongroomError | None = None
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="pods", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching; a connection that is open ends with its next line."""
        self._closing.set()

    @property
    def trouble(self) -> StrongroomError | None:
        """Return why nothing more is learnt about the pods, or nothing."""
        return self._trouble

    def see(self, pod: Object) -> None:
        """Take in a pod that was just made, before the watch tells of it."""
        with self._lock:
            self._pods.setdefault(pod["metadata"]["name"], pod)

    def pod(self, name: str) -> Object | None:
        """Return a pod, or nothing if it is not there."""
        with self._lock:
            return self._pods.get(name)

    def is_lost(self, name: str) -> bool:
        """Return whether a pod was there and was deleted."""
        with self._lock:
            return name in self._lost

    def last(self, name: str) -> Object:
        """Return a pod that was deleted as it was at its end, as far as anybody was told; empty if it never was."""
        with self._lock:
            return self._lost.get(name, {})

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._look()
            except WatchGoneError:
                continue
            except ClusterRefusedError as error:
                if error.trouble.final:
                    self._trouble = error
                    self._on_change()
                    return
                self._wait(error)
            except StrongroomError as error:
                self._wait(error)

    def _look(self) -> None:
        """List the pods and watch them; raise TransportError if what comes is no list and no pod."""
        try:
            self._follow(self._list())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TransportError("the API server answers with something that is not about pods") from error

    def _wait(self, error: StrongroomError) -> None:
        silent = time.monotonic() - self._answered
        if silent > _UNREACHABLE_SECONDS:
            self._trouble = TransportError(f"{error.message}, for {silent:.0f} s now", hint=error.hint)
            self._on_change()
        self._closing.wait(_PAUSE_SECONDS)

    def _list(self) -> str:
        listed = self._cluster.list("pods", labels=self._labels)
        found = {one["metadata"]["name"]: {"apiVersion": "v1", "kind": "Pod", **one} for one in listed["items"]}
        with self._lock:
            self._lost |= {name: pod for name, pod in self._pods.items() if name not in found}
            self._pods = found
        self._note_answer()
        return str(listed["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> None:
        """Watch from ``version`` on, again and again from where the last watch ended."""
        while not self._closing.is_set():
            with self._cluster.watch("pods", labels=self._labels, version=version) as events:
                for kind, pod in events:
                    if self._closing.is_set():
                        return
                    version = str(pod["metadata"]["resourceVersion"])
                    self._take(kind, pod)

    def _take(self, kind: str, pod: Object) -> None:
        name = str(pod["metadata"].get("name", ""))
        with self._lock:
            if kind in {"ADDED", "MODIFIED"}:
                self._pods[name] = pod
            elif kind == "DELETED":
                self._pods.pop(name, None)
                self._lost[name] = pod  # the server tells of its last state, which may be one that nobody was told of
        self._note_answer()

    def _note_answer(self) -> None:
        self._answered = time.monotonic()
        self._trouble = None
        self._on_change()
