"""What a real API server refuses in an object that its schema permits, as far as our objects could err there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_MOST_ANNOTATIONS = 256 << 10
_MOST_MAP = 1 << 20
_PERMITTED_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)


def find_violations(spec: dict) -> list[str]:
    """Return what in a pod's spec the pod security standard ``restricted`` forbids, as its admission words it."""
    return list(_violations(spec))


def find_problems(manifest: dict) -> list[tuple[str, object, str]]:
    """Return (field, value, why) of everything that would be refused as invalid."""
    return list(_find(manifest))


def _find(manifest: dict) -> Iterator[tuple[str, object, str]]:
    meta, spec = manifest.get("metadata", {}), manifest.get("spec") or {}
    name = str(meta.get("name", ""))
    if not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
        yield "metadata.name", name, "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"
    for key, value in (meta.get("labels") or {}).items():
        if not _LABEL.fullmatch(str(value)) or len(str(value)) > 63:
            yield "metadata.labels", value, f"a valid label must be 63 characters or less ({key})"
    if sum(len(str(k)) + len(str(v)) for k, v in (meta.get("annotations") or {}).items()) > _MOST_ANNOTATIONS:
        yield "metadata.annotations", "", "may not be more than 262144 bytes"
    if manifest.get("kind") == "ConfigMap":
        yield from _find_in_map(manifest)
    if manifest.get("kind") == "Pod":
        yield from _find_in_pod(spec)


def _violations(spec: dict) -> Iterator[str]:
    pod = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"host namespaces ({name}=true)"
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= _PERMITTED_VOLUMES:
            yield f'restricted volume types (volume "{volume["name"]}" uses restricted volume type "{min(kinds)}")'
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        own = container.get("securityContext") or {}
        named = f'container "{container["name"]}"'
        if own.get("privileged"):
            yield f"privileged ({named} must not set securityContext.privileged=true)"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"allowPrivilegeEscalation != false ({named} must set securityContext.allowPrivilegeEscalation=false)"
        capabilities = own.get("capabilities") or {}
        if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
            yield f'unrestricted capabilities ({named} must set securityContext.capabilities.drop=["ALL"])'
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
            yield f"runAsNonRoot != true (pod or {named} must set securityContext.runAsNonRoot=true)"
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            yield f"runAsUser=0 (pod or {named} must not set runAsUser=0)"
        profile = (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")
        if profile not in {"RuntimeDefault", "Localhost"}:
            yield f'seccompProfile (pod or {named} must set securityContext.seccompProfile.type to "RuntimeDefault")'


def _find_in_map(manifest: dict) -> Iterator[tuple[str, object, str]]:
    data = manifest.get("data") or {}
    for key, value in data.items():
        if not isinstance(value, str):
            yield f"data[{key}]", value, "must be a string"
    if sum(len(str(value)) for value in data.values()) > _MOST_MAP:
        yield "data", "", "Too long: may not be more than 1048576 bytes"


def _find_in_pod(spec: dict) -> Iterator[tuple[str, object, str]]:
    volumes = [one["name"] for one in spec.get("volumes", ())]
    for volume, times in Counter(volumes).items():
        if times > 1 or not _DNS.fullmatch(volume) or len(volume) > 63:
            yield "spec.volumes.name", volume, "must be a DNS label, and no duplicate"
    for container in spec.get("containers", ()):
        paths = Counter(one["mountPath"] for one in container.get("volumeMounts", ()))
        for path, times in paths.items():
            if times > 1:
                yield "spec.containers[0].volumeMounts.mountPath", path, "must be unique"
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield "spec.containers[0].volumeMounts.name", mount["name"], "Not found"
        for port in container.get("ports", ()):
            if len(port.get("name", "")) > 15:
                yield "spec.containers[0].ports.name", port["name"], "must be no more than 15 characters"
        limits = container.get("resources", {}).get("limits", {})
        for resource, asked in container.get("resources", {}).get("requests", {}).items():
            if "/" in resource and limits.get(resource) != asked:
                yield f"spec.containers[0].resources.requests[{resource}]", asked, "must equal the limit"
