"""Keep a job's pods as its driver wants them: hear the driver's log, make members, count out those that ended.

The same for the client that stays and for the keeper's pod that stands in when it leaves. Nothing secret comes by here,
and nothing that is said here is believed by anybody who holds a secret (spec/7-kubernetes.md §3).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.kubernetes.api import Cluster, ClusterRefusedError
from strongroom.jobs.launch.kubernetes.failures import Trouble, explain_lost, explain_pod, is_clusters_doing
from strongroom.jobs.launch.kubernetes.manifests import CONTAINER, JOB_LABEL, ROLE_LABEL
from strongroom.jobs.launch.kubernetes.template import MemberTemplates
from strongroom.jobs.launch.kubernetes.watching import PodWatch
from strongroom.jobs.launch.placement import PlacementError, PlacementEvent, parse_port
from strongroom.jobs.launch.wishes import SHORT_LIFE_SECONDS, Wishes

_LOOK_SECONDS = 0.5
_EVENTS_SECONDS = 2.0
_MOST_EVENTS = 10  # pods whose events are asked for at a look: a thousand that wait must not be a thousand requests
_LOG_SECONDS = 1.0
_MOST_QUOTED = 300
_LAST_LINES = 20
_RETRY_SECONDS = 15.0
_CONFLICT = 409
_SILENCE_SECONDS = 120.0  # a log that says nothing for so long is asked for again: its connection may be dead

Object = dict[str, Any]


class PodKeeper:
    """One job's pods, seen and kept; ``restarts`` bounds how many members that failed are replaced in all."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        job: str,
        start_seconds: int,
        head: str = "driver",
        on_event: Callable[[PlacementEvent], None] = lambda _event: None,
        restarts: int = 4,
        silence: float = _SILENCE_SECONDS,
    ) -> None:
        self.driver_name = f"{job}-{head}"
        self.watch = PodWatch(cluster, labels=f"{JOB_LABEL}={job}", on_change=self.wake)
        self.port = 0
        self.finished = threading.Event()  # the driver says that it needs nobody any more
        self.heard_all = threading.Event()  # it ended, and there is nothing more on its log
        self._cluster = cluster
        self._job = job
        self._head = head
        self._start_seconds = start_seconds
        self._silence = silence
        self._on_event = on_event
        self._wishes = Wishes(restarts=restarts)
        self._templates: MemberTemplates | None = None
        self._changed = threading.Condition()
        self._members: dict[str, str] = {}
        self._made: dict[str, float] = {}
        self._dismissed: set[str] = set()
        self._number = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._trouble = ""
        self._told: dict[str, str] = {}
        self._asked_events: dict[str, float] = {}
        self._asked: deque[float] = deque(maxlen=_MOST_EVENTS)
        self._patience = 0.0
        self._said = ""
        self._thread = threading.Thread(target=self._keep, name="placement", daemon=True)

    def hear(self) -> None:
        """Begin to watch the pods and to take in what the driver says."""
        self.watch.start()
        threading.Thread(target=self._hear_driver, name="driver-says", daemon=True).start()

    def keep(self, templates: MemberTemplates, *, after: int = 0) -> None:
        """Begin to make the members that are wanted, from ``templates``, and to take up those that are there.

        ``after`` is the highest number that an earlier keeper gave to a member.
        """
        self._templates = templates
        self._number = after
        for pod in self._cluster.list("pods", labels=f"{JOB_LABEL}={self._job}")["items"]:
            meta = pod["metadata"]
            role, _, number = str(meta["name"]).removeprefix(f"{self._job}-").rpartition("-")
            if role in templates.by_role and (meta.get("labels") or {}).get(ROLE_LABEL) == role and number.isdigit():
                self._members[meta["name"]] = role
                self._made[meta["name"]] = time.monotonic()
                self._number = max(self._number, int(number))
        self._thread.start()

    def join(self) -> None:
        """Wait until there is nothing more to keep: the driver ended, or something cannot go on."""
        self._thread.join()

    def foresee(self, role: str, count: int) -> None:
        """Keep ``count`` pods of ``role`` ahead of the driver's own wish, to save time."""
        with self._lock:
            self._wishes.foresee(role, count)
        self.wake()

    @property
    def members(self) -> dict[str, str]:
        """Return the members' pods with their roles."""
        with self._lock:
            return dict(self._members)

    @property
    def trouble(self) -> str:
        """Return why the job cannot go on as the cluster stands, or nothing."""
        if self._trouble:
            return self._trouble
        return self.watch.trouble.message if self.watch.trouble is not None else ""

    def driver(self) -> Object | None:
        """Return the driver's pod as it was last seen."""
        return self.watch.pod(self.driver_name)

    def running(self) -> bool:
        """Return whether the driver is still alive."""
        pod = self.driver()
        return (
            pod is not None and not self.watch.is_lost(self.driver_name) and phase(pod) not in {"Succeeded", "Failed"}
        )

    def driver_address(self) -> tuple[str, int]:
        """Return where other pods reach the driver; raise PlacementError if it has no address."""
        address = str((self.driver() or {}).get("status", {}).get("podIP") or "")
        if not address or not self.port:
            raise PlacementError(f"the {self._head}'s pod has no address", hint="submit the job again")
        return address, self.port

    def driver_end(self) -> PlacementError:
        """Return what the cluster knows about the end of the driver."""
        pod = self.driver()
        if self.watch.is_lost(self.driver_name) or pod is None:
            last = self.watch.last(self.driver_name)
            failed = phase(last) == "Failed" and not is_told_to_leave(last)
            trouble: Trouble | None = (explain_pod(last) if failed else None) or explain_lost(self.driver_name)
        else:
            trouble = explain_pod(pod, self._events_of(self.driver_name))
        quoted = f"; it said: {self._said}" if self._said else ""
        if trouble is None:
            ended = "still runs" if self.running() else "ended"
            return PlacementError(
                f"the {self._head} {ended}{quoted}", hint="see `strongroom job logs`; submit the job again"
            )
        return PlacementError(f"{trouble.sentence}{quoted}", hint=trouble.remedy)

    def look_at(self, name: str, role: str, pod: Object | None) -> Trouble | None:
        """Return what is wrong with a pod, and tell of it once."""
        if pod is None:
            return None
        trouble = explain_pod(pod, self._events_of(name) if phase(pod) == "Pending" else ())
        if trouble is not None and self._told.get(name) != trouble.sentence:
            self._told[name] = trouble.sentence
            self._on_event(PlacementEvent(kind="waits", role=role, detail={"pod": name, "why": str(trouble)}))
        return trouble

    def close(self, *, grace: float = 10.0) -> None:
        """Make no more pods, and stop watching; safe to call twice."""
        self._closing.set()
        self.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(grace)
        self.watch.close()

    def delete_members(self) -> None:
        """Delete every member's pod; what fails goes with the driver's pod all the same."""
        with self._lock:
            names = list(self._members)
            self._members.clear()
        for name in names:
            with contextlib.suppress(StrongroomError):
                self._cluster.delete("pods", name)

    def sleep(self) -> None:
        """Wait until something changed, half a second at most."""
        with self._changed:
            self._changed.wait(_LOOK_SECONDS)

    def wake(self) -> None:
        """Have whoever sleeps look again."""
        with self._changed:
            self._changed.notify_all()

    def _events_of(self, name: str) -> list[Object]:
        """Return the cluster's events about a pod; asked rarely, and never of importance."""
        now = time.monotonic()
        if now - self._asked_events.get(name, -_EVENTS_SECONDS) < _EVENTS_SECONDS:
            return []
        if len(self._asked) == _MOST_EVENTS and now - self._asked[0] < _LOOK_SECONDS:
            return []
        self._asked.append(now)
        self._asked_events[name] = now
        try:
            return list(self._cluster.list("events", fields=f"involvedObject.name={name}")["items"])
        except StrongroomError:
            return []

    def _hear_driver(self) -> None:
        """Take in the driver's log from its beginning, and go on where it broke off."""
        heard = 0
        while not self._closing.is_set():
            over = not self.running() and self.driver() is not None
            with (
                contextlib.suppress(StrongroomError),  # not running yet, or the connection broke: asked again
                self._cluster.follow_log(self.driver_name, container=CONTAINER, silence=self._silence) as lines,
            ):
                for number, line in enumerate(lines, start=1):
                    if number > heard:
                        heard = number
                        self._take_word(line)
            if over or self.watch.is_lost(self.driver_name):
                break
            self._closing.wait(_LOG_SECONDS if not heard else _LOG_SECONDS / 5)
        self.heard_all.set()

    def _take_word(self, line: str) -> None:
        """Do what the driver wants of the host; a line that is not a driver's is anyone's, and is ignored."""
        try:
            said = json.loads(line)
            match said["event"]:
                case "listening":
                    self.port = parse_port(said["port"])
                case "wanted":
                    with self._lock:
                        self._wishes.take(str(said["role"]), int(said["count"]))
                case "lost":  # its process may be stopped, and would never end by itself
                    self._dismiss([str(said["name"])])
                case "finished":
                    with self._lock:
                        self._wishes.clear()
                    self.finished.set()
                case "failed":
                    self._said = str(said.get("message") or said.get("kind"))[:_MOST_QUOTED]
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return
        self._on_event(PlacementEvent(kind="said", role=self._head, detail=said))
        self.wake()

    def _keep(self) -> None:
        """Keep as many members alive as are wanted, until the driver ends or the keeper closes."""
        while not self._closing.is_set() and self.running():
            try:
                self._reap()
                self._end_surplus()
                if self.port:
                    for role in self._missing():
                        self._make_member(role)
            except ClusterRefusedError as error:
                if not self._may_retry(error):
                    self._trouble = str(error.trouble)
                    return
            except StrongroomError as error:
                self._trouble = error.message
                return
            self.sleep()

    def _may_retry(self, error: ClusterRefusedError) -> bool:
        now = time.monotonic()
        if error.trouble.final:
            return False
        self._patience = self._patience or now + _RETRY_SECONDS
        return now < self._patience

    def _missing(self) -> list[str]:
        known = self._templates.by_role if self._templates is not None else {}
        with self._lock:
            missing = self._wishes.missing(Counter(self._members.values()), now=time.monotonic())
        return [role for role in missing if role in known]

    def _end_surplus(self) -> None:
        """Delete the newest pods beyond what is wanted; those that do not run yet go at once, for they know nobody."""
        members = self.members
        have, now = Counter(members.values()), time.monotonic()
        with self._lock:
            surplus = self._wishes.surplus(have, now=now)
            excess = self._wishes.excess(have)
        for role in have:
            newest = [name for name, other in reversed(members.items()) if other == role]
            waiting = [name for name in newest if phase(self.watch.pod(name) or {}) == "Pending"]
            self._dismiss(newest[: surplus.get(role, 0)] or waiting[: excess.get(role, 0)])

    def _dismiss(self, names: Sequence[str]) -> None:
        """Delete pods that are to go; one that is deleted so ends as one that was let go."""
        for name in names:
            if name in self.members and name not in self._dismissed:
                with contextlib.suppress(StrongroomError):  # asked again if it stays
                    self._cluster.delete("pods", name)
                    self._dismissed.add(name)

    def _make_member(self, role: str) -> None:
        if self._templates is None or self._closing.is_set():
            return
        self._number += 1
        manifest = self._templates.fill(role, self._number, driver=self.driver_address())
        try:
            made = self._cluster.create(manifest, what=f"make a pod of the {role}")
        except ClusterRefusedError as error:
            if error.code != _CONFLICT:
                raise
            return  # a keeper before this one made it a moment ago; the next gets another number
        self._patience = 0.0
        name = str(made["metadata"]["name"])
        self.watch.see(made)
        with self._lock:
            self._members[name] = role
            self._made[name] = time.monotonic()
        self._on_event(PlacementEvent(kind="started", role=role, detail={"pod": name}))

    def _reap(self) -> None:
        """Count out the members that ended, and notice those that will never run."""
        for name, role in self.members.items():
            pod = self.watch.pod(name)
            if self.watch.is_lost(name):
                self._end_lost(name, role, self.watch.last(name))
            elif pod is None:
                continue
            elif phase(pod) == "Succeeded":
                self._end_member(name, role, None)
            elif phase(pod) == "Failed":
                doing = is_clusters_doing(pod) or is_told_to_leave(pod)
                self._end_member(name, role, explain_pod(pod), clusters_doing=doing)
            elif phase(pod) == "Pending":
                trouble = self.look_at(name, role, pod)
                late = time.monotonic() - self._made[name] > self._start_seconds
                if trouble is not None and (trouble.final or late):
                    self._trouble = str(trouble)

    def _end_lost(self, name: str, role: str, last: Object) -> None:
        """Count out a pod that was deleted: as done or failed if that is how it ended before, else as taken away."""
        if phase(last) == "Succeeded":
            self._end_member(name, role, None)
        elif phase(last) == "Failed" and not is_told_to_leave(last):
            self._end_member(name, role, explain_pod(last), clusters_doing=is_clusters_doing(last))
        else:
            self._end_member(name, role, explain_lost(name), clusters_doing=True)

    def _end_member(self, name: str, role: str, why: Trouble | None, *, clusters_doing: bool = False) -> None:
        said = ""
        if why is None:
            self._cluster.delete("pods", name)
        elif not self.watch.is_lost(name):
            said = self._last_words(name)  # it stays for its log, as long as the driver's pod does
        now = time.monotonic()
        with self._lock:
            del self._members[name]
            well = why is None or name in self._dismissed
            # What the cluster does to pods is no fault of theirs, so it is not counted like one.
            lived = max(now - self._made[name], SHORT_LIFE_SECONDS if clusters_doing else 0.0)
            replaced = self._wishes.end(role, well=well or clusters_doing, lived=lived, now=now)
            if not replaced and role not in self._members.values():  # the rest could go on without it
                lost = why or f"pod {name} ended at once, again and again"
                self._trouble = f"{lost}, and as many were replaced as may be{f'; it said: {said}' if said else ''}"
        detail: Mapping[str, Any] = {"pod": name, "why": str(why) if why else "done", "said": said}
        self._on_event(PlacementEvent(kind="ended", role=role, detail=detail))

    def _last_words(self, name: str) -> str:
        """Return what a pod that failed said about it, if it said so in the way of our processes."""
        words = ""
        with (
            contextlib.suppress(StrongroomError),
            self._cluster.follow_log(name, container=CONTAINER, follow=False, tail=_LAST_LINES) as lines,
        ):
            for line in lines:
                with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                    said = json.loads(line)
                    if said["event"] in {"failed", "refused"}:
                        words = str(said.get("message") or said.get("kind"))[:_MOST_QUOTED]
        return words


def is_told_to_leave(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod was told to end before it ended, so that the code it ended with says nothing about it."""
    return bool((pod.get("metadata") or {}).get("deletionTimestamp"))


def phase(pod: Mapping[str, Any]) -> str:
    """Return a pod's phase as Kubernetes says it."""
    return str((pod.get("status") or {}).get("phase") or "Pending")
