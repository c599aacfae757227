"""Place a job on Kubernetes: the driver's pod, and pods for the workers and the egress that the driver asks for.

The same bargain as on one machine (placement.py): this side holds no secret and nothing it says is believed. It makes
the driver's pod with nothing in it, hears on its log what it wants, and turns whatever goes wrong into one sentence.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.kubernetes.api import Cluster, ClusterRefusedError
from strongroom.jobs.launch.kubernetes.failures import Trouble, explain_lost, explain_pod
from strongroom.jobs.launch.kubernetes.manifests import CONTAINER, JOB_LABEL, JobPods
from strongroom.jobs.launch.kubernetes.tunnel import Tunnel
from strongroom.jobs.launch.kubernetes.watching import PodWatch
from strongroom.jobs.launch.placement import PlacementError, PlacementEvent
from strongroom.jobs.launch.wishes import Wishes

_LOOK_SECONDS = 0.5
_EVENTS_SECONDS = 2.0
_LOG_SECONDS = 1.0
_MOST_QUOTED = 300
_LAST_LINES = 20
_GRACE_SECONDS = 10
_RETRY_SECONDS = 15.0
_WORD_SECONDS = 2.0

Object = dict[str, Any]


class KubernetesLauncher:
    """One job's pods, from the driver's start to the last pod's end; used as :class:`~.placement.Launcher` is.

    ``seed`` is the simulated platform's, for that flavour alone. Deleting the driver's pod deletes everything else.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        pods: JobPods,
        seed: bytes = b"",
        on_event: Callable[[PlacementEvent], None] = lambda _event: None,
        restarts: int = 4,
    ) -> None:
        self._cluster = cluster
        self._pods = pods
        self._seed = seed
        self._on_event = on_event
        self._dismissed: set[str] = set()
        self._wishes = Wishes(restarts=restarts)
        self._changed = threading.Condition()
        self._watch = PodWatch(cluster, labels=f"{JOB_LABEL}={pods.name}", on_change=self._wake)
        self._driver: Object | None = None
        self._members: dict[str, str] = {}
        self._made: dict[str, float] = {}
        self._number = 0
        self._port = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._trouble = ""
        self._told: dict[str, str] = {}
        self._asked_events: dict[str, float] = {}
        self._patience: float = 0.0
        self._said = ""
        self._finished = threading.Event()
        self._tunnel: Tunnel | None = None
        self._keeper = threading.Thread(target=self._keep, name="placement", daemon=True)

    def start(self, *, deadline: float | None = None) -> tuple[str, int]:
        """Make the driver's pod and return the address where it can be attested.

        Raises PlacementError with one sentence and its remedy if the cluster refuses it, if it dies, or if it does not
        run after the settings' start_seconds; nothing that was made is left then.
        """
        self._pods.check_locations()
        try:
            return self._start(deadline or self._pods.settings.start_seconds)
        except BaseException:  # also Ctrl-C
            self.stop(keep=False)
            raise

    @property
    def start_address(self) -> tuple[str, int]:
        """Return where the client reaches the driver; raise PlacementError if it does not run yet."""
        if not self._port:
            raise PlacementError("the driver was not started")
        if self._pods.settings.reach == "pod-ip":
            return self._inside_address()
        if self._tunnel is None:
            self._tunnel = self._cluster.open_tunnel(self._driver_name, self._port)
        return self._tunnel.address

    def want(self, role: str, count: int) -> None:
        """Make ``count`` pods of ``role`` ahead of the driver's own wish, to save time."""
        with self._lock:
            self._wishes.foresee(role, count)
        self._wake()

    @property
    def processes(self) -> dict[str, list[str]]:
        """Return the pods' names by role."""
        with self._lock:
            found: dict[str, list[str]] = {"driver": [self._driver_name]} if self._driver is not None else {}
            for name, role in self._members.items():
                found.setdefault(role, []).append(name)
            return found

    @property
    def trouble(self) -> str:
        """Return why the job cannot go on as the cluster stands, or nothing."""
        if self._trouble:
            return self._trouble
        return self._watch.trouble.message if self._watch.trouble is not None else ""

    def running(self) -> bool:
        """Return whether the driver is still alive."""
        if self._driver is None or self._watch.is_lost(self._driver_name):
            return False
        return _phase(self._watch.pod(self._driver_name) or self._driver) in {"Pending", "Running", "Unknown"}

    def driver_end(self) -> PlacementError:
        """Return what the cluster knows about the end of the driver."""
        name = self._driver_name
        pod = self._watch.pod(name)
        if self._watch.is_lost(name) or pod is None:
            trouble: Trouble | None = explain_lost(name)
        else:
            trouble = explain_pod(pod, self._events_of(name))
        quoted = f"; it said: {self._said}" if self._said else ""
        if trouble is None:
            ended = "still runs" if self.running() else "ended"
            return PlacementError(f"the driver {ended}{quoted}", hint="see `strongroom job logs`; submit the job again")
        return PlacementError(f"{trouble.sentence}{quoted}", hint=trouble.remedy)

    def stop(self, *, keep: bool = True) -> None:
        """End every pod; with ``keep``, a driver that ends by itself stays, for its log. Safe to call twice."""
        if keep and self.running():
            self._wait_for_end()
        self._closing.set()
        self._wake()
        if self._keeper.ident is not None and self._keeper is not threading.current_thread():
            self._keeper.join(_GRACE_SECONDS)
        if self._tunnel is not None:
            self._tunnel.close()
        with self._lock:
            names = list(self._members)
            self._members.clear()
        if self._driver is not None and not (keep and not self.running()):
            names.append(self._driver_name)
        for name in names:
            with contextlib.suppress(StrongroomError):  # the cluster deletes what belongs to the driver anyway
                self._cluster.delete("pods", name)
        self._watch.close()

    def _wait_for_end(self) -> None:
        """Give a driver that is done the time to say so on its log, which comes later than its word to the client."""
        if self._finished.wait(_WORD_SECONDS):
            until = time.monotonic() + _GRACE_SECONDS
            while self.running() and time.monotonic() < until:
                self._sleep()

    @property
    def _driver_name(self) -> str:
        return f"{self._pods.name}-driver"

    def _inside_address(self) -> tuple[str, int]:
        pod = self._watch.pod(self._driver_name)
        address = str((pod or {}).get("status", {}).get("podIP") or "")
        if not address:
            raise PlacementError("the driver's pod has no address", hint="submit the job again")
        return address, self._port

    def _start(self, deadline: float) -> tuple[str, int]:
        manifest = self._pods.driver()
        driver = {"apiVersion": "v1", "kind": "Pod", **self._create(manifest, what="make the driver's pod")}
        self._driver = driver
        self._made[self._driver_name] = time.monotonic()
        self._watch.see(driver)
        self._on_event(PlacementEvent(kind="started", role="driver", detail={"pod": self._driver_name}))
        # The pod waits for the seed to be there, and everything made after it goes when it goes.
        if self._pods.settings.flavour == "simulated":
            self._create(self._pods.simulated_platform(self._seed, owner=driver), what="make the platform's config map")
        self._create(self._pods.network_policy(owner=driver), what="make the network policy")
        self._watch.start()
        threading.Thread(target=self._hear_driver, name="driver-says", daemon=True).start()
        until = time.monotonic() + deadline
        while not (self._port and (self._watch.pod(self._driver_name) or {}).get("status", {}).get("podIP")):
            self._check_start(until=until, deadline=deadline)
            self._sleep()
        self._keeper.start()
        return self.start_address

    def _check_start(self, *, until: float, deadline: float) -> None:
        """Raise PlacementError if the driver will not come, as far as anybody can tell."""
        name = self._driver_name
        if self._watch.trouble is not None:
            raise self._watch.trouble
        if not self.running():
            raise self.driver_end()
        pod = self._watch.pod(name)
        trouble = self._look_at(name, "driver", pod)
        if trouble is not None and trouble.final:
            raise PlacementError(trouble.sentence, hint=trouble.remedy)
        if time.monotonic() > until:
            if trouble is not None:
                raise PlacementError(f"{trouble.sentence}, for {deadline:.0f} s", hint=trouble.remedy)
            state = "runs and says nothing" if _phase(pod or {}) == "Running" else "does not run"
            raise PlacementError(
                f"pod {name} {state} after {deadline:.0f} s",
                hint="see `kubectl describe pod`; raise start_seconds in the settings if the node is slow",
            )

    def _look_at(self, name: str, role: str, pod: Object | None) -> Trouble | None:
        """Return what is wrong with a pod, and tell the person once."""
        if pod is None:
            return None
        trouble = explain_pod(pod, self._events_of(name) if _phase(pod) == "Pending" else ())
        if trouble is not None and self._told.get(name) != trouble.sentence:
            self._told[name] = trouble.sentence
            self._on_event(PlacementEvent(kind="waits", role=role, detail={"pod": name, "why": str(trouble)}))
        return trouble

    def _events_of(self, name: str) -> list[Object]:
        """Return the cluster's events about a pod; asked rarely, and never of importance."""
        if time.monotonic() - self._asked_events.get(name, -_EVENTS_SECONDS) < _EVENTS_SECONDS:
            return []
        self._asked_events[name] = time.monotonic()
        try:
            return list(self._cluster.list("events", fields=f"involvedObject.name={name}")["items"])
        except StrongroomError:
            return []

    def _create(self, manifest: Object, *, what: str) -> Object:
        try:
            return self._cluster.create(manifest, what=what)
        except ClusterRefusedError as error:
            raise PlacementError(error.message, hint=error.hint) from error

    def _hear_driver(self) -> None:
        """Take in the driver's log from its beginning, and go on where it broke off."""
        heard = 0
        while not self._closing.is_set():
            with contextlib.suppress(StrongroomError):  # not running yet, or the connection broke: asked again
                with self._cluster.follow_log(self._driver_name, container=CONTAINER) as lines:
                    for number, line in enumerate(lines, start=1):
                        if number > heard:
                            heard = number
                            self._take_word(line)
                if not self.running():
                    return
            self._closing.wait(_LOG_SECONDS)

    def _take_word(self, line: str) -> None:
        """Do what the driver wants of the host; a line that is not a driver's is anyone's, and is ignored."""
        try:
            said = json.loads(line)
            match said["event"]:
                case "listening":
                    self._port = int(said["port"])
                case "wanted":
                    with self._lock:
                        self._wishes.take(str(said["role"]), int(said["count"]))
                case "lost":
                    self._end_lost(str(said["name"]))
                case "finished":
                    self._finished.set()
                    with self._lock:
                        self._wishes.clear()
                case "failed":
                    self._said = str(said.get("message") or said.get("kind"))[:_MOST_QUOTED]
        except (KeyError, TypeError, ValueError):
            return
        self._on_event(PlacementEvent(kind="said", role="driver", detail=said))
        self._wake()

    def _keep(self) -> None:
        """Keep as many members alive as are wanted, until the driver ends or the launcher closes."""
        while not self._closing.is_set() and self.running():
            try:
                self._reap()
                self._end_surplus()
                for role in self._missing():
                    self._make_member(role)
            except ClusterRefusedError as error:
                if not self._may_retry(error):
                    self._trouble = str(error.trouble)
                    return
            except StrongroomError as error:
                self._trouble = error.message
                return
            self._sleep()

    def _may_retry(self, error: ClusterRefusedError) -> bool:
        now = time.monotonic()
        if error.trouble.final:
            return False
        self._patience = self._patience or now + _RETRY_SECONDS
        return now < self._patience

    def _missing(self) -> list[str]:
        with self._lock:
            return self._wishes.missing(Counter(self._members.values()), now=time.monotonic())

    def _end_surplus(self) -> None:
        """Delete the newest pods beyond what is wanted; one that is deleted ends as one that was let go."""
        with self._lock:
            members = dict(self._members)
            surplus = self._wishes.surplus(Counter(members.values()), now=time.monotonic())
        for role, count in surplus.items():
            for name in [name for name, other in members.items() if other == role][-count:]:
                self._dismissed.add(name)
                self._let_go(name)

    def _end_lost(self, name: str) -> None:
        """Delete a pod that the driver lost: its process may be stopped, and would never end by itself."""
        with self._lock:
            known = name in self._members
        if known:
            self._let_go(name)

    def _let_go(self, name: str) -> None:
        with contextlib.suppress(StrongroomError):  # asked again if it stays
            self._cluster.delete("pods", name)

    def _make_member(self, role: str) -> None:
        if self._driver is None or self._closing.is_set():
            return
        self._number += 1
        manifest = self._pods.member(role, self._number, driver=self._inside_address(), owner=self._driver)
        made = self._cluster.create(manifest, what=f"make a pod of the {role}")
        self._patience = 0.0
        name = str(made["metadata"]["name"])
        self._watch.see(made)
        with self._lock:
            self._members[name] = role
            self._made[name] = time.monotonic()
        self._on_event(PlacementEvent(kind="started", role=role, detail={"pod": name}))

    def _reap(self) -> None:
        """Count out the members that ended, and notice those that will never run."""
        with self._lock:
            members = dict(self._members)
        for name, role in members.items():
            pod = self._watch.pod(name)
            if self._watch.is_lost(name):
                self._end_member(name, role, explain_lost(name))
            elif pod is None:
                continue
            elif _phase(pod) == "Succeeded":
                self._end_member(name, role, None)
            elif _phase(pod) == "Failed":
                self._end_member(name, role, explain_pod(pod))
            elif _phase(pod) == "Pending":
                trouble = self._look_at(name, role, pod)
                late = time.monotonic() - self._made[name] > self._pods.settings.start_seconds
                if trouble is not None and (trouble.final or late):
                    self._trouble = str(trouble)

    def _end_member(self, name: str, role: str, why: Trouble | None) -> None:
        said = ""
        if why is not None:
            said = self._last_words(name)  # it stays for its log, as long as the driver's pod does
        else:
            self._cluster.delete("pods", name)
        with self._lock:
            del self._members[name]
            now = time.monotonic()
            well = why is None or name in self._dismissed
            replaced = self._wishes.end(role, well=well, lived=now - self._made[name], now=now)
            if not replaced and role not in self._members.values():  # the rest could go on without it
                lost = why or f"pod {name} ended at once, again and again"
                self._trouble = f"{lost}, and as many were replaced as may be{f'; it said: {said}' if said else ''}"
        detail: Mapping[str, Any] = {"pod": name, "why": str(why) if why else "done"}
        self._on_event(PlacementEvent(kind="ended", role=role, detail=detail))

    def _last_words(self, name: str) -> str:
        """Return what a pod that failed said about it, if it said so in the way of our processes."""
        words = ""
        with (
            contextlib.suppress(StrongroomError),
            self._cluster.follow_log(name, container=CONTAINER, follow=False, tail=_LAST_LINES) as lines,
        ):
            for line in lines:
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    said = json.loads(line)
                    if said["event"] in {"failed", "refused"}:
                        words = str(said.get("message") or said.get("kind"))[:_MOST_QUOTED]
        return words

    def _sleep(self) -> None:
        with self._changed:
            self._changed.wait(_LOOK_SECONDS)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _phase(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")
