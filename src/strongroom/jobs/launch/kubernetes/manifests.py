"""Render the Kubernetes objects of one job: pods, the network policy around them, the simulated platform's seed.

Pure. No object is a Secret, and none carries a secret in its environment, arguments or annotations: what is rendered
here is shown to everybody who may read the namespace.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strongroom.errors import UsageError
from strongroom.jobs.launch.kubernetes.flavours import SEED_FOLDER, Shape, shape
from strongroom.jobs.launch.kubernetes.settings import KubernetesSettings, SizeForm
from strongroom.jobs.spec import JobDraft, JobSpec

JOB_LABEL = "strongroom.dev/job"
ROLE_LABEL = "strongroom.dev/role"
DIGEST_ANNOTATION = "strongroom.dev/job-digest"
NAME_ANNOTATION = "strongroom.dev/job-name"
HISTORY_LABEL = "strongroom.dev/history"
CONTAINER = "workload"
KEEPER_FOLDER = "/etc/strongroom/keeper"
COLLATERAL_FOLDER = "/etc/strongroom/collateral"
ACCOUNT_FOLDER = "/var/run/secrets/strongroom"  # not where programs look for a pod's own account by themselves

_TERMINATION_SECONDS = 10
_DRAIN_SECONDS = 60  # a worker hands its blocks to others before it leaves
_TOKEN_SECONDS = 3600
_KEEPER_TRIES = 20
_PORTER_SECONDS = 600
_LIGHT = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
_PYTHON = ("python3", "-P", "-s", "-m")
_HERE = "strongroom.jobs.launch.kubernetes"
_OVERHEAD_MEBIBYTES = 768  # Python, Arrow and the JVM's own memory beside a worker's heap
_REPORTS = "/sys/kernel/config"
_NOT_DNS = re.compile(r"[^a-z0-9]+")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPods:
    """One job on one cluster, from which every object is rendered."""

    spec: JobSpec | JobDraft
    digest: str
    engine: str
    settings: KubernetesSettings
    more: tuple[str, ...] = ()  # what the head is told besides

    @property
    def head(self) -> str:
        """Return the role that conducts the job."""
        return "endpoint" if self.spec.kind == "serve" else "driver"

    @property
    def workers(self) -> int:
        """Return how many workers the job begins with."""
        return self.spec.workers if self.engine in {"spark", "torch"} else 0

    @property
    def name(self) -> str:
        """Return the job's name on the cluster: a DNS label that tells two runs of one job apart."""
        readable = _NOT_DNS.sub("-", self.spec.name.lower()).strip("-")[:30].strip("-") or "job"
        return f"{readable}-{name_suffix(self.digest)}"

    @property
    def directory(self) -> str:
        """Return where the job works and leaves its encrypted outputs, as its pods see it."""
        return f"{self.settings.directory.rstrip('/')}/{self.name}"

    def driver(self) -> Manifest:
        """Return the driver's pod, or the endpoint's; every other object of the job belongs to it and goes with it."""
        listen = f"0.0.0.0:{self.settings.driver_port}"
        argv = ["--directory", self.directory, "--engine", self.engine, "--job-digest", self.digest]
        argv += ["--listen", listen, *self.more]
        if self.head == "driver":
            argv += ["--address", "$(POD_IP)"]
        return self._pod(self.head, f"{self.name}-{self.head}", argv, port=self.settings.driver_port)

    def member(self, role: str, number: int, *, driver: tuple[str, int], owner: Manifest) -> Manifest:
        """Return the pod of worker or egress ``number``, which proves itself to the driver at that address."""
        argv = ["--driver", f"{driver[0]}:{driver[1]}", "--job-digest", self.digest, "--directory", self.directory]
        name = f"{self.name}-{role}-{number}"
        return owned(self._pod(role, name, [*argv, "--name", name]), owner)

    def network_policy(self, *, owner: Manifest) -> Manifest:
        """Return the policy by which only the job's own pods reach each other; the API server's tunnels come anyway.

        An endpoint's port is for callers, wherever they are: there it refuses whom the owners do not name.
        """
        job = {"matchLabels": {JOB_LABEL: self.name}}
        policy: Manifest = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": self._metadata(f"{self.name}-members", role=self.head),
            "spec": {
                "podSelector": job,
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": job}]}],
            },
        }
        port = {"port": self.settings.driver_port, "protocol": "TCP"}
        if self.head == "endpoint":
            policy["spec"]["ingress"] = [{"ports": [port]}]
        elif self.settings.reach == "pod-ip":  # the client is a pod of the same namespace
            driver = {"matchLabels": {JOB_LABEL: self.name, ROLE_LABEL: "driver"}}
            policy["spec"]["podSelector"] = driver
            policy["spec"]["ingress"] = [{"from": [{"podSelector": {}}], "ports": [port]}]
        return owned(policy, owner)

    def simulated_platform(self, seed: bytes, *, owner: Manifest) -> Manifest:
        """Return the seed of the simulated platform that the job's pods share; it protects nothing and says so."""
        made = self.map("simulated", {"README": "A simulated TEE: it protects nothing, and this seed is no secret.\n"})
        return owned({**made, "binaryData": {"seed": base64.b64encode(seed).decode()}, "immutable": True}, owner)

    def map(self, what: str, data: Mapping[str, str], *, labels: Mapping[str, str] | None = None) -> Manifest:
        """Return a config map of the job; nothing in it is secret."""
        metadata = self._metadata(f"{self.name}-{what}", role=self.head)
        metadata["labels"] |= labels or {}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}

    def keeper(self, *, owner: Manifest) -> Manifest:
        """Return what keeps a pod alive that keeps the job when its client leaves: no TEE, no volume, its one token.

        What it may do is what the role of its account says; what it does is to make pods from the job's templates. It
        is a Kubernetes Job, so that another pod takes its place if its node dies (docs/decisions/0067).
        """
        argv = ["--settings", f"{KEEPER_FOLDER}/keeper.json", "--account", ACCOUNT_FOLDER]
        pod = self._plain_pod("keeper", f"{self.name}-keeper", [*_PYTHON, f"{_HERE}.keeper", *argv])
        spec = pod["spec"]
        spec["restartPolicy"] = "OnFailure"
        spec["serviceAccountName"] = self.settings.keeper_account
        token = {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}}
        authority = {"name": "kube-root-ca.crt", "optional": True, "items": [{"key": "ca.crt", "path": "ca.crt"}]}
        spec["volumes"] += [
            {"name": "settings", "configMap": {"name": f"{self.name}-keeper"}},
            {"name": "account", "projected": {"sources": [token, {"configMap": authority}]}},
        ]
        spec["containers"][0]["volumeMounts"] += [
            {"name": "settings", "mountPath": KEEPER_FOLDER, "readOnly": True},
            {"name": "account", "mountPath": ACCOUNT_FOLDER, "readOnly": True},
        ]
        meta = pod["metadata"]
        template = {"metadata": {"labels": meta["labels"], "annotations": meta["annotations"]}, "spec": spec}
        kept = {"backoffLimit": _KEEPER_TRIES, "template": template}
        return owned({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": kept}, owner)

    def everything(self, *, seed: bytes = b"", detached: bool = False) -> list[Manifest]:
        """Return what a job would create, with places for what only the cluster knows, to be shown and not sent."""
        driver = self.driver()
        owner = {**driver, "metadata": {**driver["metadata"], "uid": "(the driver pod's uid)"}}
        address = ("(the driver pod's address)", self.settings.driver_port)
        roles = [*(("worker", number) for number in range(1, self.workers + 1)), ("egress", self.workers + 1)]
        if self.head == "endpoint":
            roles, detached = [], False  # it needs no members, so nobody has to keep them
        platform = [self.simulated_platform(seed, owner=owner)] if self.settings.flavour == "simulated" else []
        members = [self.member(role, number, driver=address, owner=owner) for role, number in roles]
        kept = [self.map("keeper", {"keeper.json": "(the templates of the pods below)"}), self.keeper(owner=owner)]
        return [driver, *platform, self.network_policy(owner=owner), *(kept if detached else ()), *members]

    def check_locations(self) -> None:
        """Raise UsageError, naming each, if an input lies where no volume of the settings is mounted."""
        lost = [
            f"{name} at {one.location}"
            for name, one in self.spec.inputs.items()
            if "://" not in one.location and self.settings.volume_of(one.location) is None
        ]
        if lost:
            raise UsageError(
                f"no volume holds {', '.join(lost)}",
                hint="name a volume with that mount in the cluster's settings: [[kubernetes.volumes]]",
            )

    def _metadata(self, name: str, *, role: str) -> Manifest:
        labels = job_labels(self.name, role=role)
        notes = {DIGEST_ANNOTATION: self.digest, NAME_ANNOTATION: self.spec.name}
        return {"name": name, "namespace": self.settings.namespace, "labels": labels, "annotations": notes}

    def _pod(self, role: str, name: str, argv: Sequence[str], *, port: int = 0) -> Manifest:
        settings = self.settings
        chosen = shape(
            settings.flavour,
            role,
            argv,
            job_digest=self.digest,
            tee=self.spec.tee,
            runtime_class=settings.runtime_class,
            epc=settings.epc,
            agent_policy=settings.agent_policy,
        )
        pod = self._plain_pod(role, name, chosen.command)
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        pod["metadata"]["annotations"].update(chosen.annotations)
        container["resources"] = self._resources(role, chosen)
        container["volumeMounts"], spec["volumes"] = self._storage(chosen)
        if port:
            address = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}
            container["env"] = [{"name": "POD_IP", "valueFrom": address}]  # only to be named in the arguments
            container["ports"] = [{"name": "attested", "containerPort": port, "protocol": "TCP"}]
        if chosen.environment:
            values = [{"name": name, "value": value} for name, value in chosen.environment.items()]
            container["env"] = [*container.get("env", ()), *values]
        if role == "worker":
            spec["terminationGracePeriodSeconds"] = _DRAIN_SECONDS
        if chosen.runtime_class:
            spec["runtimeClassName"] = chosen.runtime_class
        if settings.node_selector:
            spec["nodeSelector"] = dict(settings.node_selector)
        return pod

    def _plain_pod(self, role: str, name: str, command: Sequence[str]) -> Manifest:
        return plain_pod(self.settings, self._metadata(name, role=role), command)

    def _resources(self, role: str, chosen: Shape) -> Manifest:
        if role == "worker":
            amount, unit = int(self.spec.worker_memory[:-1]), self.spec.worker_memory[-1]
            mebibytes = amount * (1024 if unit == "g" else 1) + _OVERHEAD_MEBIBYTES
            size = {"cpu": str(self.spec.worker_cores), "memory": f"{mebibytes}Mi"}
        else:
            wanted: SizeForm = getattr(self.settings, role)
            size = {"cpu": wanted.cores, "memory": wanted.memory}
        # The memory file system counts as memory; the limit of processor cores is left open, as a burst harms nobody.
        return {
            "requests": {**size, **chosen.resources},
            "limits": {"memory": size["memory"], **chosen.resources},
        }

    def _storage(self, chosen: Shape) -> tuple[list[Manifest], list[Manifest]]:
        memory = {"emptyDir": {"medium": "Memory", "sizeLimit": self.settings.scratch}}
        mounts: list[Manifest] = [
            {"name": "scratch", "mountPath": "/dev/shm"},  # noqa: S108
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108
        ]
        volumes: list[Manifest] = [{"name": "scratch", **memory}, {"name": "temporary", **memory}]
        for number, one in enumerate(self.settings.volumes, start=1):
            mounts.append({"name": f"storage-{number}", "mountPath": one.mount, "readOnly": one.read_only})
            claim = {"claimName": one.claim, "readOnly": one.read_only}
            volumes.append({"name": f"storage-{number}", "persistentVolumeClaim": claim})
        if chosen.seed:
            mounts.append({"name": "simulated", "mountPath": SEED_FOLDER, "readOnly": True})
            volumes.append({"name": "simulated", "configMap": {"name": f"{self.name}-simulated"}})
        if not chosen.seed:  # what vendors signed: whoever changes it can delay and deny, never deceive
            mounts.append({"name": "collateral", "mountPath": COLLATERAL_FOLDER, "readOnly": True})
            found = {"name": self.settings.collateral_config_map, "optional": True}
            volumes.append({"name": "collateral", "configMap": found})
        if chosen.reports:  # Kata takes mounts below /sys from the guest, so this is the guest's configfs
            mounts.append({"name": "reports", "mountPath": _REPORTS})
            volumes.append({"name": "reports", "hostPath": {"path": _REPORTS, "type": "Directory"}})
        return mounts, volumes


def name_suffix(digest: str) -> str:
    """Return what a job's name on the cluster ends with: it holds whoever shows a digest for that name to its word."""
    return hashlib.sha256(digest.encode()).hexdigest()[:10]


def plain_pod(settings: KubernetesSettings, metadata: Manifest, command: Sequence[str]) -> Manifest:
    """Return a pod that may do nothing but run ``command``: what every pod of ours has in common."""
    container: Manifest = {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(command),
        "resources": _LIGHT,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "temporary", "mountPath": "/tmp"}],  # noqa: S108
    }
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "containers": [container],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {
            "fsGroup": settings.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsGroup": settings.user,
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": settings.service_account,
        "terminationGracePeriodSeconds": _TERMINATION_SECONDS,
        "volumes": [{"name": "temporary", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}],
    }
    if settings.tolerations:
        spec["tolerations"] = [dict(one) for one in settings.tolerations]
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": one} for one in settings.image_pull_secrets]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def porter_pod(settings: KubernetesSettings, *, job: str, title: str, name: str, directory: str, port: int) -> Manifest:
    """Return the pod that hands out the encrypted files below ``directory``, to anybody, for ten minutes at most."""
    argv = ["--directory", directory, "--listen", f"0.0.0.0:{port}"]
    labels = job_labels(job, role="porter")
    metadata = {
        "name": name,
        "namespace": settings.namespace,
        "labels": labels,
        "annotations": {NAME_ANNOTATION: title},
    }
    pod = plain_pod(settings, metadata, [*_PYTHON, f"{_HERE}.porter", *argv])
    pod["spec"]["activeDeadlineSeconds"] = _PORTER_SECONDS
    container = pod["spec"]["containers"][0]
    container["ports"] = [{"name": "ciphertext", "containerPort": port, "protocol": "TCP"}]
    volume = settings.volume_of(directory)
    if volume is None:
        raise UsageError(
            f"no volume of the settings holds {directory}", hint="use the settings that the job was submitted with"
        )
    container["volumeMounts"].append({"name": "storage", "mountPath": volume.mount, "readOnly": True})
    claim = {"claimName": volume.claim, "readOnly": True}
    pod["spec"]["volumes"].append({"name": "storage", "persistentVolumeClaim": claim})
    return pod


def job_labels(job: str, *, role: str) -> dict[str, str]:
    """Return the labels of one object of a job."""
    return {
        "app.kubernetes.io/name": "strongroom",
        "app.kubernetes.io/component": role,
        "app.kubernetes.io/managed-by": "strongroom",
        JOB_LABEL: job,
        ROLE_LABEL: role,
    }


def owned(manifest: Manifest, owner: Mapping[str, Any]) -> Manifest:
    """Return the object as one that is deleted when ``owner`` is."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}
