"""Objects as an API server keeps them: versions, conflicts, watches with history, and what an owner takes along."""

from __future__ import annotations

import bisect
import contextlib
import copy
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

LISTS = {
    "pods": "PodList",
    "configmaps": "ConfigMapList",
    "events": "EventList",
    "networkpolicies": "NetworkPolicyList",
    "jobs": "JobList",
}
KINDS = {
    "pods": "Pod",
    "configmaps": "ConfigMap",
    "events": "Event",
    "networkpolicies": "NetworkPolicy",
    "jobs": "Job",
}
_COLLECT_SECONDS = 0.4
VERSIONS = {"networkpolicies": "networking.k8s.io/v1", "jobs": "batch/v1"}


class RefusedError(Exception):
    """An answer with a Status, as the real server words it."""

    def __init__(self, code: int, reason: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Every object of the cluster and everything that happened to them since ``forget_history``."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.objects: dict[tuple[str, str, str], dict] = {}
        self.history: list[tuple[int, str, str, str, dict]] = []
        self.oldest = 0
        self.version = 300
        self.admission: list[Callable[[str, dict], None]] = []

    def create(self, plural: str, namespace: str, manifest: dict) -> dict:
        with self.changed:
            name = manifest.get("metadata", {}).get("name", "")
            kind = KINDS[plural]
            if manifest.get("kind") != kind or manifest.get("apiVersion") != VERSIONS.get(plural, "v1"):
                raise RefusedError(400, "BadRequest", f"the object provided is unrecognized: expected {kind}")
            if manifest["metadata"].get("namespace", namespace) != namespace:
                message = "the namespace of the provided object does not match the namespace sent on the request"
                raise RefusedError(400, "BadRequest", message)
            for rule in self.admission:
                rule(plural, manifest)
            if (plural, namespace, name) in self.objects:
                raise RefusedError(409, "AlreadyExists", f'{plural} "{name}" already exists', name=name, kind=plural)
            made = copy.deepcopy(manifest)
            made["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
            if plural == "pods":
                made["metadata"]["generation"] = 1
                made["status"] = {"phase": "Pending", "qosClass": "Burstable"}
            self.objects[plural, namespace, name] = made
            self._happened("ADDED", plural, made)
            owners = [reference["uid"] for reference in made["metadata"].get("ownerReferences", ())]
            owned = not owners or any(one["metadata"]["uid"] in owners for one in self.objects.values())
            answer = copy.deepcopy(made)
        if not owned:  # collected at once: nobody owns it any more
            self.delete(plural, namespace, name)
        return answer

    def update(self, plural: str, namespace: str, name: str, change: Callable[[dict], None]) -> bool:
        with self.changed:
            found = self.objects.get((plural, namespace, name))
            if found is None:
                return False
            change(found)
            self._happened("MODIFIED", plural, found)
            return True

    def patch(self, plural: str, namespace: str, name: str, change: dict) -> dict:
        """Change an object as a JSON merge patch says (RFC 7386)."""
        with self.changed:
            changed = self.get(plural, namespace, name)
            if changed.get("immutable"):
                message = (
                    f'{KINDS[plural]} "{name}" is invalid: data: Forbidden: field is immutable when `immutable` is set'
                )
                raise RefusedError(422, "Invalid", message, name=name, kind=KINDS[plural])
            merge(changed, change)
            for rule in self.admission:
                rule(plural, changed)
            self.update(plural, namespace, name, lambda found: merge(found, change))
            return self.get(plural, namespace, name)

    def get(self, plural: str, namespace: str, name: str) -> dict:
        with self.changed:
            found = self.objects.get((plural, namespace, name))
            if found is None:
                raise RefusedError(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)
            return copy.deepcopy(found)

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """Take an object away, and a moment later everything that it owned."""
        with self.changed:
            found = self.objects.pop((plural, namespace, name), None)
            if found is None:
                return
            self._happened("DELETED", plural, found)
        uid = found["metadata"]["uid"]
        if self._owned_by(uid):
            collector = threading.Timer(_COLLECT_SECONDS, self._collect, args=(uid,))
            collector.daemon = True
            collector.start()

    def _owned_by(self, uid: str) -> list[tuple[str, str, str]]:
        with self.changed:
            return [
                key
                for key, one in self.objects.items()
                if any(reference["uid"] == uid for reference in one["metadata"].get("ownerReferences", ()))
            ]

    def _collect(self, uid: str) -> None:
        """Delete what belonged to an object that is gone: a while later and one after the other, as controllers do."""
        for key in self._owned_by(uid):
            with contextlib.suppress(RefusedError):  # somebody was faster
                self.delete(*key)
            time.sleep(_COLLECT_SECONDS / 10)

    def delete(self, plural: str, namespace: str, name: str, *, grace: int | None = None) -> dict:
        """Delete as asked for: a pod is marked, and its node removes it when its processes have ended."""
        with self.changed:
            found = self.get(plural, namespace, name)
            if grace is None:
                grace = found.get("spec", {}).get("terminationGracePeriodSeconds", 30)
            bound = found.get("spec", {}).get("nodeName")
            if plural == "pods" and bound and grace > 0:

                def mark(pod: dict) -> None:
                    pod["metadata"].setdefault("deletionTimestamp", now())
                    earlier = pod["metadata"].get("deletionGracePeriodSeconds", grace)
                    pod["metadata"]["deletionGracePeriodSeconds"] = min(grace, earlier)

                self.update(plural, namespace, name, mark)
                return self.get(plural, namespace, name)
        self.remove(plural, namespace, name)
        return found

    def list(self, plural: str, namespace: str, *, labels: str = "", fields: str = "") -> dict:
        with self.changed:
            found = [
                copy.deepcopy(one)
                for (kind, where, _), one in sorted(self.objects.items())
                if kind == plural and where == namespace and selected(one, labels, fields)
            ]
            for one in found:  # as the real server: what a list's kind says is not repeated in its items
                one.pop("kind", None)
                one.pop("apiVersion", None)
            return {
                "kind": LISTS[plural],
                "apiVersion": VERSIONS.get(plural, "v1"),
                "metadata": {"resourceVersion": str(self.version)},
                "items": found,
            }

    def watch(self, plural: str, namespace: str, *, labels: str, since: int, seconds: float, ended: threading.Event):
        """Yield events after ``since``, and a bookmark before the end."""
        until = time.monotonic() + seconds
        with self.changed:
            if since < self.oldest:
                gone = RefusedError(410, "Expired", f"too old resource version: {since} ({self.oldest})")
                yield {"type": "ERROR", "object": gone.status}
                return
        while time.monotonic() < until and not ended.is_set():
            with self.changed:
                fresh = self.history[bisect.bisect_right(self.history, since, key=lambda one: one[0]) :]
                if not fresh:
                    self.changed.wait(0.2)
                    continue
            for version, kind, what, where, seen in fresh:
                since = version
                if kind == plural and where == namespace and selected(seen, labels, ""):
                    yield {"type": what, "object": seen}
        bookmark = {"kind": KINDS[plural], "apiVersion": "v1", "metadata": {"resourceVersion": str(since)}}
        yield {"type": "BOOKMARK", "object": bookmark}

    def forget_history(self) -> None:
        """Compact, as etcd does: older watches must list anew."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.history.clear()

    def _happened(self, what: str, plural: str, found: dict) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        seen = copy.deepcopy(found)
        self.history.append((self.version, plural, what, found["metadata"]["namespace"], seen))
        self.changed.notify_all()


def merge(target: dict, change: dict) -> None:
    for name, value in change.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


def selected(one: dict, labels: str, fields: str) -> bool:
    have = one["metadata"].get("labels") or {}
    for term in filter(None, labels.split(",")):
        if "!=" in term:
            name, _, value = term.partition("!=")
            if have.get(name) == value:
                return False
        elif "=" in term:
            name, _, value = term.replace("==", "=").partition("=")
            if have.get(name) != value:
                return False
        elif term not in have:
            return False
    for term in filter(None, fields.split(",")):
        path, _, value = term.partition("=")
        found: object = one
        for step in path.split("."):
            found = found.get(step, "") if isinstance(found, dict) else ""
        if found != value:
            return False
    return True
