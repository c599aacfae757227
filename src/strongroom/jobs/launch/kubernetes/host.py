"""A Kubernetes cluster as a host that places whole jobs: its settings, its API server and, if need be, a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from strongroom.jobs.launch.kubernetes.access import find_access
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.launcher import KubernetesLauncher
from strongroom.jobs.launch.kubernetes.manifests import JobPods
from strongroom.jobs.launch.kubernetes.settings import KubernetesSettings
from strongroom.jobs.launch.placement import PlacementEvent
from strongroom.jobs.spec import JobSpec


class KubernetesHost:
    """One namespace that jobs are placed in; ``seed`` is a simulated platform's, which protects nothing."""

    def __init__(
        self, cluster: Cluster, *, settings: KubernetesSettings, seed: bytes = b"", detached: bool = False
    ) -> None:
        self.cluster = cluster
        self.settings = settings
        self._seed = seed
        self._detached = detached

    @classmethod
    def open(cls, settings: KubernetesSettings, *, seed: bytes = b"", detached: bool = False) -> KubernetesHost:
        """Return the host that the settings describe, by the person's own kubeconfig.

        With ``detached``, jobs are left to keepers of the cluster.
        """
        cluster = Cluster(find_access(settings.context), namespace=settings.namespace)
        return cls(cluster, settings=settings, seed=seed, detached=detached)

    @property
    def broker_url(self) -> str:
        """Return where pods reach the broker, if the settings say so."""
        return self.settings.broker

    def place(
        self,
        spec: JobSpec,
        *,
        job_digest: str,
        engine: str,
        on_event: Callable[[PlacementEvent], None],
        more: Sequence[str] = (),
    ) -> KubernetesLauncher:
        """Return the job's placement, not started yet."""
        pods = JobPods(spec=spec, digest=job_digest, engine=engine, settings=self.settings, more=tuple(more))
        return KubernetesLauncher(self.cluster, pods=pods, seed=self._seed, detached=self._detached, on_event=on_event)
