"""A real cluster of one node that this machine shares a folder with, made ready for tests and cleared after each.

What it takes from the environment stands in docs/how-to/develop.md. The tests' person is whoever the kubeconfig names,
and must be allowed to make namespaces, roles and volumes; jobs are placed under that name too.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from api_server import KEEPER_RULES

from strongroom.attestation.roles import Role
from strongroom.jobs.launch.kubernetes.access import find_access
from strongroom.jobs.launch.kubernetes.failures import explain_pod
from strongroom.jobs.launch.kubernetes.manifests import plain_pod
from strongroom.jobs.launch.kubernetes.settings import parse_settings
from strongroom.workload.address import own_address

ROLES = (Role.DRIVER, Role.WORKER, Role.EGRESS, Role.ENDPOINT)
IMAGE = "localhost/strongroom-spark:0.1.0"  # as scripts/image names it, and ctr imports it
_SLICES = (
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=kubernetes"
)
PATHS = {
    "namespaces": "/api/v1/namespaces",
    "nodes": "/api/v1/nodes",
    "persistentvolumes": "/api/v1/persistentvolumes",
    "persistentvolumeclaims": "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "serviceaccounts": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "pods": "/api/v1/namespaces/{namespace}/pods",
    "configmaps": "/api/v1/namespaces/{namespace}/configmaps",
    "networkpolicies": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "jobs": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "roles": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "rolebindings": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_OURS = "app.kubernetes.io/managed-by=strongroom"
_GROUPS = {"networkpolicies": "networking.k8s.io"}


class RealCluster:
    """The cluster that STRONGROOM_TEST_KUBECONFIG names."""

    claim = "strongroom-test"

    @classmethod
    def open(cls) -> RealCluster | None:
        """Make the cluster ready, or return nothing if none is named."""
        kubeconfig = os.environ.get("STRONGROOM_TEST_KUBECONFIG", "")
        return cls(Path(kubeconfig)) if kubeconfig else None

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = os.environ.get("STRONGROOM_TEST_NAMESPACE", "strongroom-test")
        access = find_access(environ={"KUBECONFIG": str(kubeconfig)})
        self._http = httpx.Client(base_url=access.server, verify=access.tls, headers=dict(access.headers()), timeout=30)
        server = urlsplit(access.server)
        self.address = os.environ.get("STRONGROOM_TEST_ADDRESS") or self._own_address(server)
        self.settings = {
            "image": os.environ.get("STRONGROOM_TEST_IMAGE", IMAGE),
            "image_pull_policy": "Never",
            "service_account": "strongroom-job",
            "keeper_account": "strongroom-keeper",
            "api_server": os.environ.get("STRONGROOM_TEST_API_SERVER") or self._api_server(access),
            "driver_port": 7077,  # every pod has its own address
            "start_seconds": 300,
        }
        shared = Path(os.environ.get("STRONGROOM_TEST_FOLDER", "/var/tmp"))
        self._folder = Path(tempfile.mkdtemp(prefix="strongroom-cluster-", dir=shared))
        self._folder.chmod(0o755)  # pods run under another account
        self._volume = f"strongroom-test-{secrets.token_hex(4)}"
        self._prepare()
        self.measurements = self._measure()

    def new_folder(self) -> Path:
        made = self._folder / secrets.token_hex(4)
        made.mkdir()
        made.chmod(0o755)  # whatever the umask is
        return made

    def share(self, world) -> None:
        """Let pods, which run under another account, read the world's ciphertext and write results beside it."""
        jobs = world.directory / "jobs"
        jobs.mkdir(exist_ok=True)
        jobs.chmod(0o777)
        world.directory.chmod(0o755)
        for home in world.owners.values():
            for top in (
                home.encrypted,
                *home.directory.glob(f"{home.dataset}-[0-9]*"),
            ):  # a table, or a model's versions
                for path in (home.directory, top, *top.rglob("*")) if top.is_dir() else ():
                    path.chmod(0o755 if path.is_dir() else 0o644)
        self.clear()
        self._replace_volume(world.directory)

    def names(self, plural: str) -> list[str]:
        """Return the names of our own objects, as the double has no others."""
        found = self._ask("GET", plural, params={"labelSelector": _OURS})["items"]
        return sorted(one["metadata"]["name"] for one in found)

    def kill(self, name: str) -> None:
        """Take a pod away at once, as a node that dies does."""
        self._ask("DELETE", "pods", name, body={"gracePeriodSeconds": 0})

    def drain(self, name: str) -> None:
        """Ask a pod to leave, as draining its node does."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.namespace}}
        self._ask("POST", "pods", f"{name}/eviction", body=body)

    def clear(self) -> None:
        """Delete what a test left, and wait until it is gone."""
        for plural in ("jobs", "pods", "configmaps", "networkpolicies"):
            for name in self.names(plural):
                self._ask("DELETE", plural, name, missing=True)
        self._until(lambda: not self.names("pods"), "pods do not end")

    def close(self) -> None:
        self.clear()
        self._ask("DELETE", "persistentvolumeclaims", self.claim, missing=True)
        self._ask("DELETE", "persistentvolumes", self._volume, missing=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _own_address(self, server) -> str:
        """Return an address of this machine that pods reach: on the way to the API server, or the node's own."""
        if server.hostname not in _LOOPBACK:
            return own_address((server.hostname, server.port or 443))
        addresses = [one for node in self._ask("GET", "nodes")["items"] for one in node["status"]["addresses"]]
        found = [one["address"] for one in addresses if one["type"] == "InternalIP"]
        assert len(found) == 1, f"name this machine's address in STRONGROOM_TEST_ADDRESS; the nodes have {found}"
        return found[0]

    def _api_server(self, access) -> str:
        """Return where pods reach the API server without a service's address, by a name its certificate has."""
        slices = (
            self._http.get(_SLICES, params={"labelSelector": "kubernetes.io/service-name=kubernetes"})
            .json()
            .get("items", ())
        )
        found = [
            f"https://{f'[{address}]' if ':' in address else address}:{port['port']}"
            for one in slices
            for port in one["ports"]
            for end in one["endpoints"]
            for address in end["addresses"]
        ]
        server = urlsplit(access.server)
        found += [f"https://{self.address}:{server.port or 443}", access.server]
        for address in found:
            if urlsplit(address).hostname in _LOOPBACK:
                continue
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{address}/version", verify=access.tls, headers=dict(access.headers()), timeout=10)
                return address
        raise AssertionError(f"none of {found} is for pods: name one in STRONGROOM_TEST_API_SERVER")

    def _prepare(self) -> None:
        # What pods of ours may do at most is what the strictest standard permits, so it is enforced.
        strict = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": self.namespace, "labels": strict}
        self._make("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        for name in ("strongroom-job", "strongroom-keeper"):
            self._make("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        group = "rbac.authorization.k8s.io"
        rules = [
            {"apiGroups": [_GROUPS.get(resource, "")], "resources": [resource], "verbs": sorted(verbs)}
            for resource, verbs in KEEPER_RULES.items()
        ]
        meta = {"name": "strongroom-keeper"}
        self._make("roles", {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "strongroom-keeper", "namespace": self.namespace}
        role = {"apiGroup": group, "kind": "Role", "name": "strongroom-keeper"}
        binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": meta}
        self._make("rolebindings", {**binding, "roleRef": role, "subjects": [subject]})

    def _replace_volume(self, folder: Path) -> None:
        """Lend ``folder`` of this machine, which is the node, to pods as a volume that is bound by name."""
        self._ask("DELETE", "persistentvolumeclaims", self.claim, missing=True)
        self._until(lambda: self._gone("persistentvolumeclaims", self.claim), "the old claim does not go")
        self._ask("DELETE", "persistentvolumes", self._volume, missing=True)
        self._volume = f"strongroom-test-{secrets.token_hex(4)}"
        size = {"storage": "1Gi"}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": self._volume},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": self.namespace, "name": self.claim},
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": self.claim},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": self._volume,
                "resources": {"requests": size},
            },
        }
        self._make("persistentvolumes", volume)
        self._make("persistentvolumeclaims", claim)
        self._until(
            lambda: self._ask("GET", "persistentvolumeclaims", self.claim)["status"].get("phase") == "Bound",
            "the claim is not bound",
        )

    def _measure(self) -> dict[Role, str]:
        """Ask the image what it measures as, in a pod."""
        text = "\n".join(
            [
                "[kubernetes]",
                f'image = "{self.settings["image"]}"',
                'image_pull_policy = "Never"',
                'flavour = "simulated"',
                'directory = "/jobs"',
                'service_account = "strongroom-job"',
                "[[kubernetes.volumes]]",
                'mount = "/jobs"',
                'claim = "none"',
                "read_only = false",
            ]
        )
        name = f"measure-{secrets.token_hex(3)}"
        metadata = {"name": name, "namespace": self.namespace, "labels": {"app.kubernetes.io/managed-by": "strongroom"}}
        command = ["python3", "-P", "-s", "-m", "strongroom", "measure", "--json"]
        self._make("pods", plain_pod(parse_settings(text), metadata, command))
        self._until(
            lambda: self._has_ended(name),
            f"the image {self.settings['image']} does not measure itself: see kubectl describe pod {name}",
        )
        path = f"{PATHS['pods'].format(namespace=self.namespace)}/{name}/log"
        said = self._http.get(path)
        assert said.status_code == 200, said.text
        self._ask("DELETE", "pods", name, missing=True)
        text = said.text  # both streams of the container
        measured = json.loads(text[text.index("{") : text.rindex("}") + 1])["measurements"]
        return {role: measured[role.value] for role in ROLES}

    def _has_ended(self, name: str) -> bool:
        """Return whether a pod has succeeded; fail with the reason if it never will."""
        pod = self._ask("GET", "pods", name)
        trouble = explain_pod(pod)
        assert trouble is None or not trouble.final, str(trouble)
        return pod["status"].get("phase") == "Succeeded"

    def _make(self, plural: str, manifest: dict) -> None:
        with contextlib.suppress(FileExistsError):
            self._ask("POST", plural, body=manifest)

    def _gone(self, plural: str, name: str) -> bool:
        try:
            self._ask("GET", plural, name)
        except FileNotFoundError:
            return True
        return False

    def _ask(self, method: str, plural: str, name: str = "", *, body=None, params=None, missing: bool = False) -> dict:
        path = PATHS[plural].format(namespace=self.namespace)
        answer = self._http.request(method, f"{path}/{name}" if name else path, json=body, params=params)
        if answer.status_code == 404:
            if missing:
                return {}
            raise FileNotFoundError(f"{plural} {name}")
        if answer.status_code == 409 and method == "POST":
            raise FileExistsError(f"{plural} {name}")
        assert answer.status_code < 400, answer.text
        return answer.json()

    def _until(self, condition, why: str, *, seconds: float = 180) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, why
            time.sleep(0.5)
