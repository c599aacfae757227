"""Read off a namespace which jobs are there and how they stand, end one, and read its log.

What it shows is the untrusted host's word about the job's pods; what the job did stands in the ledger.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from strongroom.errors import StrongroomError, UsageError
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.failures import explain_pod
from strongroom.jobs.launch.kubernetes.history import CLIENT, HistoryWriter, JobHistory, client_about, read_history
from strongroom.jobs.launch.kubernetes.manifests import (
    CONTAINER,
    DIGEST_ANNOTATION,
    HISTORY_LABEL,
    JOB_LABEL,
    NAME_ANNOTATION,
    ROLE_LABEL,
)
from strongroom.jobs.launch.placement import HEADS

_ALIVE = frozenset({"Pending", "Running", "Unknown", "Ending"})
_QUIET_LOOKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """One pod of a job: its phase as Kubernetes says it, and what is wrong with it, if anything."""

    name: str
    role: str
    phase: str
    node: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """One job on the cluster: its name there, the job's own name, its digest, and its pods, the driver first."""

    name: str
    title: str
    digest: str
    created: str
    pods: tuple[PodState, ...]

    @property
    def phase(self) -> str:
        """Return how the job stands, which is how its driver stands, or its endpoint."""
        return self.head.phase if self.head is not None else "Gone"

    @property
    def head(self) -> PodState | None:
        """Return the pod that conducts the job, if it is there."""
        return next((pod for pod in self.pods if pod.role in HEADS), None)


class Board:
    """The jobs of one namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def jobs(self) -> tuple[JobState, ...]:
        """Return every job, the newest first."""
        found = self._read(JOB_LABEL)
        return tuple(sorted(found, key=lambda job: (job.created, job.name), reverse=True))

    def job(self, name: str) -> JobState:
        """Return one job, by its name on the cluster or the beginning of its digest; raise UsageError if unknown."""
        found = self.jobs()
        chosen = [one for one in found if name in (one.name, one.digest, one.title) or one.digest.startswith(name)]
        if len(chosen) != 1:
            problem = (
                f"more than one job is called {name!r}" if chosen else f"no job {name!r} in {self._cluster.namespace}"
            )
            known = ", ".join(one.name for one in (chosen or found)) or "none"
            raise UsageError(problem[:300], hint=f"jobs there: {known}"[:500])
        return chosen[0]

    def cancel(self, name: str) -> JobState:
        """Delete a job's driver, and with it everything that belongs to it; return how it stood before."""
        job = self.job(name)
        self._note_cancel(job.name)
        drivers = [pod.name for pod in job.pods if pod.role in HEADS]
        for pod in drivers or [pod.name for pod in job.pods]:
            self._cluster.delete("pods", pod)
        return job

    def log(self, name: str, *, role: str = "", follow: bool = False) -> Iterator[str]:
        """Yield the lines that a job's pods of ``role`` (by default the one that conducts it) said to their host.

        None of it is data.
        """
        for pod in self.job(name).pods:
            if pod.role == role or (not role and pod.role in HEADS):
                with self._cluster.follow_log(pod.name, container=CONTAINER, follow=follow) as lines:
                    yield from lines

    def histories(self) -> tuple[JobHistory, ...]:
        """Return what happened to every job that is remembered, the newest first."""
        found = [read_history(one) for one in self._cluster.list("configmaps", labels=HISTORY_LABEL)["items"]]
        kept = {*HEADS, "keeper"}  # either still has something to say
        alive = {job.name for job in self.jobs() if any(p.phase in _ALIVE for p in job.pods if p.role in kept)}
        settled = [one if one.over or one.name in alive else replace(one, state="lost") for one in found]
        return tuple(sorted(settled, key=lambda one: (one.created, one.name), reverse=True))

    def history(self, name: str) -> JobHistory:
        """Return what happened to one job; raise UsageError if it is not remembered."""
        found = self.histories()
        chosen = [one for one in found if name in (one.name, one.digest, one.title) or one.digest.startswith(name)]
        if len(chosen) != 1:
            problem = f"more than one job is called {name!r}" if chosen else f"no job {name!r} is remembered"
            known = ", ".join(one.name for one in (chosen or found)) or "none"
            raise UsageError(f"{problem} in {self._cluster.namespace}"[:300], hint=f"jobs there: {known}"[:500])
        return chosen[0]

    def watch(self, name: str, *, until: float = math.inf, every: float = 1.0) -> Iterator[JobHistory]:
        """Yield a job's history whenever there is more of it, to the job's end or ``until`` (``time.monotonic``)."""
        seen, quiet = -1, 0
        while True:
            found = self.history(name)
            if len(found.events) != seen or found.over:
                seen = len(found.events)
                yield found
            # A job that ended has a keeper that says so; one whose keeper is gone has none.
            quiet = quiet + 1 if found.state == "lost" and not found.ended else 0
            if found.ended or quiet >= _QUIET_LOOKS or time.monotonic() >= until:
                return
            time.sleep(every)

    def _note_cancel(self, name: str) -> None:
        with contextlib.suppress(StrongroomError):
            found = self._cluster.get("configmaps", f"{name}-history")
            if not read_history(found).ended:
                history = HistoryWriter(self._cluster, job=name, part=CLIENT, about=client_about(found))
                history.note("cancelled")
                history.end("cancelled")
                history.flush(at_once=True)

    def _read(self, labels: str) -> Sequence[JobState]:
        by_job: dict[str, list[Mapping[str, Any]]] = {}
        for pod in self._cluster.list("pods", labels=labels)["items"]:
            by_job.setdefault(pod["metadata"]["labels"][JOB_LABEL], []).append(pod)
        return [_job_state(name, pods) for name, pods in by_job.items()]


def _job_state(name: str, pods: Sequence[Mapping[str, Any]]) -> JobState:
    states = sorted((_pod_state(pod) for pod in pods), key=lambda pod: (pod.role not in HEADS, pod.role, pod.name))
    notes = pods[0]["metadata"].get("annotations") or {}
    return JobState(
        name=name,
        title=str(notes.get(NAME_ANNOTATION, "")),
        digest=str(notes.get(DIGEST_ANNOTATION, "")),
        created=min(str(pod["metadata"].get("creationTimestamp", "")) for pod in pods),
        pods=tuple(states),
    )


def _pod_state(pod: Mapping[str, Any]) -> PodState:
    meta = pod["metadata"]
    ending = "Ending" if meta.get("deletionTimestamp") else ""
    trouble = explain_pod(pod)
    return PodState(
        name=str(meta["name"]),
        role=str((meta.get("labels") or {}).get(ROLE_LABEL, "")),
        phase=ending or str((pod.get("status") or {}).get("phase") or "Pending"),
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        why=str(trouble) if trouble else "",
    )
