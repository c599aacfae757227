"""A node without containers: runs each pod's command as a process of this machine, as its status tells.

What a container has for itself alone (file system, network) it shares with the machine here, so a pod's claims must be
mounted where their folders really are, and config maps are found where this node puts them.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cluster_store import Store, now

ADDRESS = "127.0.0.1"


class Node:
    """The one node of a cluster; ``claims`` maps a claim's name to its folder, ``images`` are those it has."""

    def __init__(
        self, store: Store, *, directory: Path, claims: dict[str, Path], images: set[str], package: Path
    ) -> None:
        self.store = store
        self.directory = directory
        self.claims = claims
        self.images = images
        self.package = package
        self.unschedulable: Callable[[dict], str] = lambda _pod: ""
        self.sandbox: Callable[[dict], str] = lambda _pod: ""
        self.delay: Callable[[dict], float] = lambda _pod: 0.0
        self.stillborn: Callable[[dict], bool] = lambda _pod: False
        self.restarts: dict[str, int] = {}
        self.accounts: dict[str, dict[str, str]] = {}
        self.environment: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen] = {}
        self.started: dict[str, list[str]] = {}
        self.closing = threading.Event()
        self._reasons: dict[str, str] = {}
        self._taken: set[str] = set()
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._look, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        for process in list(self.processes.values()):
            end_group(process)
        for thread in self._threads:
            thread.join(5)

    def log(self, uid: str) -> Path:
        return self.directory / "logs" / f"{uid}.log"

    def evict(self, name: str, namespace: str) -> None:
        """Do what a kubelet does that is short of memory: end the pod and say so in its status."""
        pod = self.store.get("pods", namespace, name)
        message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi."

        def mark(found: dict) -> None:
            found["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}

        self.store.update("pods", namespace, name, mark)
        end_group(self.processes[pod["metadata"]["uid"]])

    def kill(self, name: str, namespace: str, *, reason: str = "Error") -> None:
        """End a pod's processes at once, as a crash or (with ``OOMKilled``) the kernel does."""
        uid = self.store.get("pods", namespace, name)["metadata"]["uid"]
        self._reasons[uid] = reason
        end_group(self.processes[uid])

    def _look(self) -> None:
        while not self.closing.is_set():
            with self.store.changed:
                pods = [one for (plural, _, _), one in self.store.objects.items() if plural == "pods"]
                fresh = [one for one in pods if one["metadata"]["uid"] not in self._taken]
                for one in fresh:
                    self._taken.add(one["metadata"]["uid"])
                if not fresh:
                    self.store.changed.wait(0.1)
            for one in fresh:
                thread = threading.Thread(target=self._serve, args=(one,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, pod: dict) -> None:
        key = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        if self._schedule(pod, key) and self._prepare(pod, key):
            self._run(pod, key)

    def _schedule(self, pod: dict, key: tuple[str, str, str]) -> bool:
        while message := self.unschedulable(pod):
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            if not self._change(key, lambda found, seen=condition: found["status"].update(conditions=[seen])):
                return False
            self._event(pod, "FailedScheduling", message)
            if self.closing.wait(0.3):
                return False
        self._event(pod, "Scheduled", f"Successfully assigned {key[1]}/{key[2]} to node-1")

        def bind(found: dict) -> None:
            found["spec"]["nodeName"] = "node-1"
            self._state(found, {"waiting": {"reason": "ContainerCreating"}})

        return self._change(key, bind)

    def _prepare(self, pod: dict, key: tuple[str, str, str]) -> bool:
        """Wait for what the pod mounts; say why if that, the sandbox or the image cannot be had."""
        image = pod["spec"]["containers"][0]["image"]
        ready = time.monotonic() + self.delay(pod)
        while not self.closing.is_set():
            if self._ended_early(key):
                return False
            if sandbox := self.sandbox(pod):
                self._event(pod, "FailedCreatePodSandBox", sandbox)
            elif missing := self._missing_map(pod, key[1]):
                said = f'MountVolume.SetUp failed for volume "simulated" : configmap "{missing}" not found'
                self._event(pod, "FailedMount", said)
            elif image not in self.images:
                said = f'Back-off pulling image "{image}"'
                waiting = {"reason": "ImagePullBackOff", "message": said}
                self._change(key, lambda found, waiting=waiting: self._state(found, {"waiting": waiting}))
            elif time.monotonic() >= ready:
                return True
            self.closing.wait(0.1)
        return False

    def _missing_map(self, pod: dict, namespace: str) -> str:
        for volume in pod["spec"].get("volumes", ()):
            name = volume.get("configMap", {}).get("name")
            if name and ("configmaps", namespace, name) not in self.store.objects:
                return name
        return ""

    def _run(self, pod: dict, key: tuple[str, str, str]) -> None:
        uid = pod["metadata"]["uid"]
        command = self._command(pod, key[1])
        self.log(uid).parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.package.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment,  # a kubelet gives it to every container
        }
        again = pod["spec"].get("restartPolicy") == "OnFailure"
        while True:
            code = self._run_once(command, environment, pod, key)
            if self._deleted(key):  # a kubelet says how it ended before it lets the object go
                self._change(key, lambda found, code=code: self._finished(found, code, self._reasons.get(uid, "Error")))
                self.closing.wait(0.1)
                self.store.remove(*key)
                return
            if code == 0 or not again or self.closing.is_set():
                break
            self.restarts[key[2]] = self.restarts.get(key[2], 0) + 1
            self._change(key, lambda found: self._state(found, {"waiting": {"reason": "CrashLoopBackOff"}}))
            self.closing.wait(0.5)
        self._change(key, lambda found: self._finished(found, code, self._reasons.get(uid, "Error")))
        while not self.closing.wait(0.05):
            if self._deleted(key):
                self.store.remove(*key)
                return

    def _run_once(self, command: list[str], environment: dict[str, str], pod: dict, key: tuple[str, str, str]) -> int:
        """Run a pod's container to its end; a log holds what its last start said, as a kubelet shows it."""
        uid = pod["metadata"]["uid"]
        with self.log(uid).open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        self.processes[uid] = process
        self.started[key[2]] = command
        if self.stillborn(pod):
            end_group(process)
        self._change(key, self._running)
        killed_at = 0.0
        while process.poll() is None:
            if self._deleted(key) and not killed_at:
                killed_at = time.monotonic() + self._grace(key)
                process.terminate()
            if killed_at and time.monotonic() > killed_at:
                end_group(process)
            time.sleep(0.03)
        end_group(process)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _grace(self, key: tuple[str, str, str]) -> float:
        with self.store.changed:
            found = self.store.objects.get(key)
            return float(found["metadata"].get("deletionGracePeriodSeconds", 0)) if found else 0.0

    def _command(self, pod: dict, namespace: str) -> list[str]:
        """Return the pod's command with this interpreter, and config maps where this node put them."""
        (container,) = pod["spec"]["containers"]
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        moved: dict[str, str] = {}
        for mount in container["volumeMounts"]:
            volume, path = volumes[mount["name"]], mount["mountPath"]
            if "configMap" in volume:
                moved[path] = str(self._lay_map(namespace, volume["configMap"]["name"]))
            elif "projected" in volume:
                moved[path] = str(self._lay_account(pod, volume["projected"]["sources"]))
            elif "persistentVolumeClaim" in volume:
                assert str(self.claims[volume["persistentVolumeClaim"]["claimName"]]) == path
        command = [*container.get("command", ()), *container.get("args", ())]
        assert command[0] == "python3"
        changed = [
            next((new + one[len(old) :] for old, new in moved.items() if one.startswith(old)), one) for one in command
        ]
        return [sys.executable, *(one.replace("$(POD_IP)", ADDRESS) for one in changed[1:])]

    def _lay_map(self, namespace: str, name: str) -> Path:
        found = self.store.get("configmaps", namespace, name)
        folder = self.directory / "maps" / found["metadata"]["uid"]
        folder.mkdir(parents=True, exist_ok=True)
        for key, text in found.get("data", {}).items():
            (folder / key).write_text(text)
        for key, text in found.get("binaryData", {}).items():
            (folder / key).write_bytes(base64.b64decode(text))
        return folder

    def _lay_account(self, pod: dict, sources: list[dict]) -> Path:
        """Lay out a token of the pod's account, and the certificate of those who vouch for the API server."""
        account = self.accounts[pod["spec"]["serviceAccountName"]]
        folder = self.directory / "accounts" / pod["metadata"]["uid"]
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if "serviceAccountToken" in source:
                (folder / source["serviceAccountToken"]["path"]).write_text(account["token"])
            else:
                assert source["configMap"]["name"] == "kube-root-ca.crt"
                (folder / "ca.crt").write_text(account["ca.crt"])
        return folder

    def _change(self, key: tuple[str, str, str], change: Callable[[dict], None]) -> bool:
        return self.store.update(*key, change)

    def _deleted(self, key: tuple[str, str, str]) -> bool:
        with self.store.changed:
            found = self.store.objects.get(key)
            return found is None or "deletionTimestamp" in found["metadata"]

    def _ended_early(self, key: tuple[str, str, str]) -> bool:
        if self._deleted(key):
            self.store.remove(*key)
            return True
        return False

    def _state(self, pod: dict, state: dict, *, ready: bool = False) -> None:
        (container,) = pod["spec"]["containers"]
        flags = {"status": "True" if ready else "False", "lastProbeTime": None, "lastTransitionTime": now()}
        pod["status"] |= {
            "conditions": [
                {"type": "PodReadyToStartContainers", **flags},
                {"type": "Initialized", **flags, "status": "True"},
                {"type": "Ready", **flags},
                {"type": "ContainersReady", **flags},
                {"type": "PodScheduled", **flags, "status": "True"},
            ],
            "hostIP": "10.89.0.1",
            "hostIPs": [{"ip": "10.89.0.1"}],
            "startTime": pod["status"].get("startTime", now()),
            "containerStatuses": [
                {
                    "name": container["name"],
                    "state": state,
                    "lastState": {},
                    "ready": ready,
                    "restartCount": 0,
                    "image": container["image"],
                    "imageID": "",
                    "started": ready,
                }
            ],
        }

    def _running(self, pod: dict) -> None:
        self._state(pod, {"running": {"startedAt": now()}}, ready=True)
        pod["status"] |= {"phase": "Running", "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}]}

    def _finished(self, pod: dict, code: int, reason: str) -> None:
        if pod["status"]["phase"] == "Failed":  # evicted before
            return
        self._state(pod, {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else reason}})
        pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"

    def _event(self, pod: dict, reason: str, message: str) -> None:
        meta = pod["metadata"]
        name = f"{meta['name']}.{reason.lower()}"
        regarding = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
        event = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": name},
            "involvedObject": regarding,
            "reason": reason,
            "message": message,
            "lastTimestamp": now(),
            "type": "Normal" if reason == "Scheduled" else "Warning",
        }
        with self.store.changed:
            if ("events", meta["namespace"], name) not in self.store.objects:
                rules, self.store.admission = self.store.admission, []
                try:
                    self.store.create("events", meta["namespace"], event)
                finally:
                    self.store.admission = rules


def end_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
