"""What Kubernetes' controller does for a Job with one pod: makes another one when the last is gone and was not done."""

from __future__ import annotations

import contextlib
import copy
import secrets
import threading

from cluster_store import RefusedError, Store


class JobController:
    """Keeps one pod for each Job until one has succeeded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closing = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._store.changed:
                jobs = [copy.deepcopy(one) for (kind, _, _), one in self._store.objects.items() if kind == "jobs"]
                wanting = [job for job in jobs if not self._has_pod(job)]
            for job in wanting:
                self._make_pod(job)
            self._closing.wait(0.1)

    def _has_pod(self, job: dict) -> bool:
        """Return whether a pod of ``job`` is there that is not on its way out, or was done."""
        uid = job["metadata"]["uid"]
        for (kind, _, _), pod in self._store.objects.items():
            if kind != "pods" or uid not in [one["uid"] for one in pod["metadata"].get("ownerReferences", ())]:
                continue
            phase = pod["status"]["phase"]
            if phase == "Succeeded" or (phase != "Failed" and "deletionTimestamp" not in pod["metadata"]):
                return True
        return bool(job.get("status", {}).get("succeeded"))

    def _make_pod(self, job: dict) -> None:
        meta, template = job["metadata"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
        labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": meta["name"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": f"{meta['name']}-{secrets.token_hex(3)[:5]}",
                "namespace": meta["namespace"],
                "labels": labels,
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
        }
        with contextlib.suppress(RefusedError):  # its account is not there, say: tried again
            self._store.create("pods", meta["namespace"], pod)
