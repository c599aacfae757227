"""Place a job on Kubernetes: the driver's pod, and pods for the workers and the egress that the driver asks for.

The same bargain as on one machine (placement.py): this side holds no secret and nothing it says is believed. It makes
the driver's pod with nothing in it, and turns whatever goes wrong into one sentence. Members are made by this process
while it stays, or by a keeper's pod when the job is left to the cluster (spec/7-kubernetes.md §3).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.kubernetes.api import Cluster, ClusterRefusedError
from strongroom.jobs.launch.kubernetes.history import CLIENT, KEEPER, HistoryWriter, prunable, render_history
from strongroom.jobs.launch.kubernetes.keeping import PodKeeper, phase
from strongroom.jobs.launch.kubernetes.manifests import HISTORY_LABEL, JobPods, owned
from strongroom.jobs.launch.kubernetes.template import MemberTemplates
from strongroom.jobs.launch.kubernetes.tunnel import Tunnel
from strongroom.jobs.launch.placement import PlacementError, PlacementEvent

_GRACE_SECONDS = 10
_WORD_SECONDS = 2.0

Object = dict[str, Any]


class KubernetesLauncher:
    """One job's pods, from the driver's start to the last pod's end; used as :class:`~.placement.Launcher` is.

    ``seed`` is the simulated platform's, for that flavour alone. With ``detached``, a keeper's pod makes the members,
    and :meth:`leave` leaves everything running. Deleting the driver's pod deletes everything but the job's history.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        pods: JobPods,
        seed: bytes = b"",
        detached: bool = False,
        on_event: Callable[[PlacementEvent], None] = lambda _event: None,
        restarts: int = 4,
    ) -> None:
        self._cluster = cluster
        self._pods = pods
        self._seed = seed
        self._detached = detached
        self._tell = on_event
        self._restarts = restarts
        self._keeper = PodKeeper(
            cluster,
            job=pods.name,
            head=pods.head,
            start_seconds=pods.settings.start_seconds,
            on_event=self._on_event,
            restarts=restarts,
        )
        self._history: HistoryWriter | None = None
        self._seen: HistoryWriter | None = None  # what a keeper notes, noted by the client that keeps the job itself
        self._ahead: dict[str, int] = {}
        self._driver: Object | None = None
        self._tunnel: Tunnel | None = None

    def start(self, *, deadline: float | None = None) -> tuple[str, int]:
        """Make the driver's pod and return the address where it can be attested.

        Raises PlacementError with one sentence and its remedy if the cluster refuses it, if it dies, or if it does not
        run after the settings' start_seconds; nothing that was made is left then but the job's history.
        """
        self._pods.check_locations()
        try:
            return self._start(deadline or self._pods.settings.start_seconds)
        except BaseException as error:  # also Ctrl-C
            self.note_end("failed", why=str(error) or type(error).__name__)
            self.stop(keep=False)
            raise

    @property
    def name(self) -> str:
        """Return the job's name on the cluster."""
        return self._pods.name

    @property
    def start_address(self) -> tuple[str, int]:
        """Return where the client reaches the driver; raise PlacementError if it does not run yet."""
        if not self._keeper.port:
            raise PlacementError(f"the {self._pods.head} was not started")
        if self._pods.settings.reach == "pod-ip":
            return self._keeper.driver_address()
        if self._tunnel is None:
            self._tunnel = self._cluster.open_tunnel(self._keeper.driver_name, self._keeper.port)
        return self._tunnel.address

    def address_within(self) -> tuple[str, int]:
        """Return where other pods reach the driver."""
        return self._keeper.driver_address()

    def want(self, role: str, count: int) -> None:
        """Make ``count`` pods of ``role`` ahead of the driver's own wish, to save time."""
        self._ahead[role] = max(count, self._ahead.get(role, 0))
        self._keeper.foresee(role, count)

    @property
    def processes(self) -> dict[str, list[str]]:
        """Return the pods' names by role."""
        found: dict[str, list[str]] = {self._pods.head: [self._keeper.driver_name]} if self._driver is not None else {}
        for name, role in self._keeper.members.items():
            found.setdefault(role, []).append(name)
        return found

    @property
    def trouble(self) -> str:
        """Return why the job cannot go on as the cluster stands, or nothing."""
        return self._keeper.trouble

    def running(self) -> bool:
        """Return whether the driver is still alive."""
        return self._driver is not None and self._keeper.running()

    def driver_end(self) -> PlacementError:
        """Return what the cluster knows about the end of the driver."""
        return self._keeper.driver_end()

    def note(self, what: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Note what the client did in the job's history."""
        if self._history is not None:
            self._history.note(what, **facts)
            self._history.flush(at_once=True)

    def note_end(self, state: str, *, why: str = "") -> None:
        """Note how the job ended, as the client knows it; the first word counts."""
        if self._history is not None:
            self._history.end(state, why=why)
            self._history.flush(at_once=True)

    def leave(self) -> None:
        """Go away and leave the job to its keeper; nothing is ended."""
        if self._tunnel is not None:
            self._tunnel.close()
        self._keeper.close()

    def dismiss(self) -> None:
        """Ask the driver to end in order; what it says until then still arrives."""
        with contextlib.suppress(StrongroomError):  # the cluster has forgotten it already
            self._cluster.delete("pods", self._keeper.driver_name)

    def stop(self, *, keep: bool = True) -> None:
        """End every pod; with ``keep``, a driver that ends by itself stays, for its log. Safe to call twice."""
        if keep and self.running():
            self._wait_for_end()
        self._keeper.close()
        if self._tunnel is not None:
            self._tunnel.close()
        ended = self._driver is not None and not self.running()
        self._keeper.delete_members()
        if self._driver is not None and not (keep and ended):
            with contextlib.suppress(StrongroomError):  # the cluster deletes what belongs to the driver anyway
                self._cluster.delete("pods", self._keeper.driver_name)
        if self._seen is not None:
            self._seen.flush(at_once=True)
        if self._driver is not None:
            self.note_end("cancelled", why="" if ended else "its client ended it")

    def _wait_for_end(self) -> None:
        """Give a driver that is done the time to say so on its log, which comes later than its word to the client."""
        if self._keeper.finished.wait(_WORD_SECONDS):
            until = time.monotonic() + _GRACE_SECONDS
            while self.running() and time.monotonic() < until:
                self._keeper.sleep()

    def _start(self, deadline: float) -> tuple[str, int]:
        keeper, simulated = self._keeper, self._pods.settings.flavour == "simulated"
        self._open_history()
        driver = {
            "apiVersion": "v1",
            "kind": "Pod",
            **self._create(self._pods.driver(), what=f"make the {self._pods.head}'s pod"),
        }
        self._driver = driver
        keeper.watch.see(driver)
        self._on_event(PlacementEvent(kind="started", role=self._pods.head, detail={"pod": keeper.driver_name}))
        # The pod waits for the seed to be there, and everything made after it goes when it goes.
        if simulated:
            self._create(self._pods.simulated_platform(self._seed, owner=driver), what="make the platform's config map")
        self._create(self._pods.network_policy(owner=driver), what="make the network policy")
        templates = MemberTemplates.render(self._pods, owner=driver)
        if self._detached and self._pods.head == "driver":
            settings = json.dumps(self._keeper_settings(templates))
            kept = self._pods.map("keeper", {"keeper.json": settings})
            self._create(owned(kept, driver), what="make the keeper's config map")
            self._create(self._pods.keeper(owner=driver), what="make the job's keeper")
        keeper.hear()
        until = time.monotonic() + deadline
        while not (keeper.port and (keeper.driver() or {}).get("status", {}).get("podIP")):
            self._check_start(until=until, deadline=deadline)
            keeper.sleep()
        if not self._detached and self._pods.head == "driver":
            keeper.keep(templates)
        return self.start_address

    def _keeper_settings(self, templates: MemberTemplates) -> Object:
        """Return what a keeper needs to know: names, addresses, templates; nothing secret."""
        access = self._cluster.access
        chosen = self._pods.settings.api_server
        return {
            "namespace": self._cluster.namespace,
            # An empty one stands for the address that the cluster itself tells its pods.
            "servers": [chosen] if chosen else ["", access.server],
            "authority": access.authority,
            "start_seconds": self._pods.settings.start_seconds,
            "restarts": self._restarts,
            "ahead": self._ahead,
            "templates": templates.encode(),
        }

    def _open_history(self) -> None:
        """Begin the job's history and clear away old ones; a cluster that does not permit it has no histories."""
        settings, now = self._pods.settings, datetime.now(UTC)
        made = render_history(self._pods, detached=self._detached, now=now)
        try:
            self._cluster.create(made, what="write the job's history")
        except StrongroomError as error:
            self._tell(PlacementEvent(kind="waits", role="history", detail={"why": f"{error.message}; {error.hint}"}))
            return
        about = json.loads(made["data"][CLIENT])
        self._history = HistoryWriter(self._cluster, job=self._pods.name, part=CLIENT, about=about)
        if not self._detached:
            self._seen = HistoryWriter(self._cluster, job=self._pods.name, part=KEEPER)
        with contextlib.suppress(StrongroomError):
            known = self._cluster.list("configmaps", labels=HISTORY_LABEL)["items"]
            for name in prunable(known, now=now, keep=settings.history_jobs, days=settings.history_days):
                self._cluster.delete("configmaps", name)

    def _on_event(self, event: PlacementEvent) -> None:
        if self._seen is not None:
            self._seen.take(event)
            self._seen.flush()
        self._tell(event)

    def _check_start(self, *, until: float, deadline: float) -> None:
        """Raise PlacementError if the driver will not come, as far as anybody can tell."""
        keeper = self._keeper
        name = keeper.driver_name
        if keeper.watch.trouble is not None:
            raise keeper.watch.trouble
        if not self.running():
            raise self.driver_end()
        pod = keeper.driver()
        trouble = keeper.look_at(name, self._pods.head, pod)
        if trouble is not None and trouble.final:
            raise PlacementError(trouble.sentence, hint=trouble.remedy)
        if time.monotonic() > until:
            if trouble is not None:
                raise PlacementError(f"{trouble.sentence}, for {deadline:.0f} s", hint=trouble.remedy)
            state = "runs and says nothing" if phase(pod or {}) == "Running" else "does not run"
            raise PlacementError(
                f"pod {name} {state} after {deadline:.0f} s",
                hint="see `kubectl describe pod`; raise start_seconds in the settings if the node is slow",
            )

    def _create(self, manifest: Object, *, what: str) -> Object:
        try:
            return self._cluster.create(manifest, what=what)
        except ClusterRefusedError as error:
            raise PlacementError(error.message, hint=error.hint) from error
