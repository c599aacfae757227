"""Keep what happened to a job where operators and analysts find it later: one ConfigMap a job, owned by nothing.

It is the untrusted host's word, bounded, and holds nothing secret: states with their times, pods, why something ended,
and the driver's last report, which is sealed to the analyst. Client and keeper write a part each, so neither waits for
the other (spec/7-kubernetes.md §7).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.manifests import (
    DIGEST_ANNOTATION,
    HISTORY_LABEL,
    JOB_LABEL,
    NAME_ANNOTATION,
    JobPods,
    Manifest,
)
from strongroom.jobs.launch.placement import PlacementEvent

FORMAT = "strongroom-job-history/1"
CLIENT, KEEPER, REPORT = "client.json", "keeper.json", "report"
_MOST_EVENTS = 200  # the first fifty and the last of them; a job that goes well has a dozen
_FIRST_KEPT = 50
_MOST_REPORT = 1 << 17
_MOST_WHY = 500
_FLUSH_SECONDS = 1.0
ENDED = frozenset({"done", "failed", "cancelled", "lost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHistory:
    """What is known of one job: ``state`` is its last word, ``why`` its reason if it ended badly."""

    name: str
    title: str
    digest: str
    created: str
    detached: bool
    state: str
    ended: str
    why: str
    about: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    report: str = ""

    @property
    def over(self) -> bool:
        """Return whether the job has ended."""
        return self.state in ENDED


def read_history(found: Mapping[str, Any]) -> JobHistory:
    """Return the history that a ConfigMap holds; what is damaged in it is left out, for anybody may have written it."""
    meta, data = found.get("metadata") or {}, found.get("data") or {}
    notes = meta.get("annotations") or {}
    client, keeper = _part(data.get(CLIENT)), _part(data.get(KEEPER))
    events = sorted([*_events(client), *_events(keeper)], key=lambda one: str(one.get("at", "")))
    end = next((part for part in (client.get("end"), keeper.get("end")) if isinstance(part, dict)), {})
    last = next((str(one["what"]) for one in reversed(events) if one.get("what") in _STATES), "submitted")
    return JobHistory(
        name=str((meta.get("labels") or {}).get(JOB_LABEL, "")),
        title=str(notes.get(NAME_ANNOTATION, "")),
        digest=str(notes.get(DIGEST_ANNOTATION, "")),
        created=str(meta.get("creationTimestamp", "")),
        detached=bool(client.get("detached")),
        state=str(end.get("state") or last),
        ended=str(end.get("at") or ""),
        why=str(end.get("why") or ""),
        about={name: client[name] for name in _ABOUT if name in client},
        events=tuple(events),
        report=str(data.get(REPORT) or ""),
    )


def client_about(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's part of the history that a ConfigMap holds, to be written on."""
    return _part((found.get("data") or {}).get(CLIENT))


_ABOUT = ("kind", "engine", "flavour", "image", "workers", "outputs", "directory", "namespace")
# What a job's state can be before its end, in the order in which they come.
_STATES = frozenset(
    {
        "submitted",
        "driver-started",
        "driver-attested",
        "endpoint-started",
        "endpoint-attested",
        "handed-over",
        "broker-attested",
        "keys-released",
        "serving",
        "program-started",
        "program-ended",
        "egress-ruled",
    }
)


def render_history(pods: JobPods, *, detached: bool, now: datetime) -> Manifest:
    """Return a new job's history; nothing owns it, so that it stays when the job's objects go."""
    about = {
        "format": FORMAT,
        "kind": pods.spec.kind,
        "engine": pods.engine,
        "flavour": pods.settings.flavour,
        "image": pods.settings.image,
        "workers": pods.workers,
        "outputs": sorted(pods.spec.outputs),
        "directory": pods.directory,
        "namespace": pods.settings.namespace,
        "detached": detached,
        "events": [{"at": _time(now), "what": "submitted"}],
    }
    return pods.map("history", {CLIENT: json.dumps(about)}, labels={HISTORY_LABEL: "1"})


def prunable(found: Iterable[Mapping[str, Any]], *, now: datetime, keep: int, days: int) -> list[str]:
    """Return the names of the histories beyond the newest ``keep`` and those older than ``days`` days."""
    newest = sorted(found, key=lambda one: str(one["metadata"].get("creationTimestamp", "")), reverse=True)
    oldest = _time(now - timedelta(days=days))
    return [
        str(one["metadata"]["name"])
        for place, one in enumerate(newest)
        if place >= keep or str(one["metadata"].get("creationTimestamp", "")) < oldest
    ]


_MOST_DIGITS = 9


class HistoryWriter:
    """Writes one part of a job's history; a cluster that does not take it is no reason to stop a job."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        job: str,
        part: str,
        about: Mapping[str, Any] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._object = f"{job}-history"
        self._part = part
        self._about = dict(about or {})
        self._events: list[Any] = list(self._about.pop("events", ()))
        self._clock = clock
        self._end: dict[str, Any] | None = None
        self._report = ""
        self._changed = False
        self._written = 0.0
        self._lock = threading.Lock()
        self._known: set[str] = set()

    @property
    def over(self) -> bool:
        """Return whether the end was noted."""
        return self._end is not None

    def take(self, event: PlacementEvent) -> None:
        """Note what a launcher saw, as far as it belongs into a history."""
        detail = event.detail
        if event.kind == "said":
            said = str(detail.get("event"))
            if said == "stage":
                self.note(str(detail.get("name"))[:40], **_short(detail, "role"))
            elif said == "report":
                with self._lock:
                    self._report = str(detail.get("sealed"))[:_MOST_REPORT]
                    self._changed = True
            elif said in {"failed", "refused", "wanted"}:
                self.note(f"{event.role}-{said}", **_short(detail, "role", "count", "kind", "message"))
        else:
            self.note(f"{event.role}-{event.kind}", **_short(detail, "pod", "why", "said"))

    def note(self, what: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Note one event with its time."""
        with self._lock:
            said = json.dumps([what, facts], sort_keys=True)
            if said in self._known:  # heard again after a restart
                self._known.discard(said)
                return
            self._events.append({"at": _time(self._clock()), "what": what, **facts})
            if len(self._events) > _MOST_EVENTS:
                del self._events[_FIRST_KEPT]
            self._changed = True

    def highest_number(self) -> int:
        """Return the highest number that a member's pod was noted with, so that no name is given twice."""
        with self._lock:
            names = [str(event.get("pod", "")) for event in self._events if isinstance(event, dict)]
        numbers = [name.rpartition("-")[2] for name in names]
        return max((int(one) for one in numbers if one.isdecimal() and len(one) <= _MOST_DIGITS), default=0)

    def end(self, state: str, *, why: str = "") -> None:
        """Note how the job ended; the first word counts."""
        with self._lock:
            if self._end is None:
                self._end = {"at": _time(self._clock()), "state": state, "why": why[:_MOST_WHY]}
                self._changed = True

    def flush(self, *, at_once: bool = False) -> None:
        """Write what is new, once a second at most unless ``at_once``."""
        with self._lock:
            if not self._changed or (not at_once and time.monotonic() - self._written < _FLUSH_SECONDS):
                return
            self._changed, self._written = False, time.monotonic()
            part = {**self._about, "events": self._events, **({"end": self._end} if self._end else {})}
            data = {self._part: json.dumps(part), **({REPORT: self._report} if self._report else {})}
        try:
            self._cluster.patch("configmaps", self._object, {"data": data})
        except StrongroomError:
            with self._lock:
                self._changed = True  # tried again with the next event, or at the end

    def resume(self) -> None:
        """Go on with what this part says already, after a restart of its writer."""
        with contextlib.suppress(StrongroomError):
            part = _part((self._cluster.get("configmaps", self._object).get("data") or {}).get(self._part))
            with self._lock:
                self._events = [*_events(part), *self._events]
                self._end = part["end"] if isinstance(part.get("end"), dict) else self._end
                self._known = {
                    json.dumps(
                        [one.get("what"), {k: v for k, v in one.items() if k not in {"at", "what"}}], sort_keys=True
                    )
                    for one in _events(part)
                }


def _part(text: object) -> dict[str, Any]:
    try:
        part = json.loads(str(text))
    except (ValueError, RecursionError):
        return {}
    return part if isinstance(part, dict) else {}


def _events(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    events = part.get("events")
    return [one for one in events if isinstance(one, dict)] if isinstance(events, list) else []


def _short(detail: Mapping[str, Any], *names: str) -> dict[str, Any]:
    found = {name: detail[name] for name in names if detail.get(name) not in (None, "")}
    return {name: value if _is_count(value) else str(value)[:_MOST_WHY] for name, value in found.items()}


def _is_count(value: object) -> bool:
    """Return whether a value is a number that people count with; JSON's have as many digits as somebody likes."""
    return isinstance(value, int) and abs(value) < 1 << 53


def _time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
