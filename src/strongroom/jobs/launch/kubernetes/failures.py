"""Say in one sentence why a pod does not run, or why the cluster refused one, and what to do about it.

Pure: from what the API server said about a pod, its events or a request; nothing here asks or waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN = 400
_EXIT_KILLED = 137

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a pod is not running, and the remedy; ``final`` if waiting cannot help."""

    sentence: str
    remedy: str
    final: bool

    def __str__(self) -> str:
        return f"{self.sentence}; {self.remedy}"


def code_of(status: Object) -> int:
    """Return the code in a Status, or 0 where there is no whole number."""
    code = status.get("code")
    return code if type(code) is int else 0


def explain_refusal(status: Object, *, what: str, namespace: str) -> Trouble:
    """Return why the API server refused a request to ``what`` (as in "make the driver's pod"), from its Status."""
    code, reason = code_of(status), str(status.get("reason") or "")
    said = _short(status.get("message") or reason or f"code {code}")
    for pattern, sentence, remedy in _REFUSALS:
        if found := re.search(pattern, said):
            facts = {name: value or "" for name, value in found.groupdict().items()}
            facts |= {"what": what, "namespace": namespace}
            return Trouble(sentence=sentence.format(**facts), remedy=remedy.format(**facts), final=True)
    sentence, remedy = _BY_CODE.get(
        code, ("the cluster could not {what} now: {said}", "try again when the API server is well")
    )
    facts = {"what": what, "namespace": namespace, "said": said}
    return Trouble(sentence=sentence.format(**facts), remedy=remedy.format(**facts), final=code in _BY_CODE)


_NOT_ACCEPTED = (
    "the cluster did not accept the object to {what}: {said}",
    "correct that field in the cluster's settings",
)
_BY_CODE: Mapping[int, tuple[str, str]] = {
    400: _NOT_ACCEPTED,
    401: (
        "the cluster does not know who you are, so it refused to {what}",
        "log in to the cluster again and check with `kubectl auth whoami`",
    ),
    403: (
        "the cluster forbids to {what}: {said}",
        "ask its administrator for the role strongroom-submitter in namespace {namespace}",
    ),
    404: ("the cluster could not {what}: {said}", "check the namespace in the settings"),
    409: ("the cluster could not {what}: {said}", "cancel the earlier job of that name, then submit again"),
    422: _NOT_ACCEPTED,
}
_REFUSALS: Sequence[tuple[str, str, str]] = (
    (
        r'RuntimeClass(?:\.node\.k8s\.io)? "(?P<name>[^"]+)" not found',
        "the cluster has no runtime class {name}, so it refused to {what}",
        "install Kata or CoCo on it, or set runtime_class in the settings to one of `kubectl get runtimeclass`",
    ),
    (
        r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>[^ ]+), used: (?P<used>[^ ]+), limited: (?P<limit>.+)",
        "the quota {name} is used up ({used} of {limit}; asked for {asked}), so the cluster refused to {what}",
        "ask for a larger quota in namespace {namespace}, or let the job take fewer or smaller workers",
    ),
    (
        r"failed quota: (?P<name>[^:]+): must specify (?P<asked>.+)",
        "the namespace's quota {name} wants {asked} to be set, so the cluster refused to {what}",
        "ask the cluster's administrator for a LimitRange with defaults in namespace {namespace}",
    ),
    (
        r'violates PodSecurity "(?P<level>[^"]+)": (?P<asked>.+)',
        "the namespace enforces pod security {level}, so the cluster refused to {what}: {asked}",
        "use a namespace that permits what this flavour needs; the handbook lists it",
    ),
    (
        r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<name>[^"]+)"',
        "{user} may not {verb} {name} in namespace {namespace}, so the cluster refused to {what}",
        "ask its administrator to bind the role strongroom-submitter to you",
    ),
    (
        r'error looking up service account [^ ]+: serviceaccount "(?P<name>[^"]+)" not found',
        "namespace {namespace} has no service account {name}, so the cluster refused to {what}",
        "install the chart there, or set service_account in the cluster's settings",
    ),
    (
        r'namespaces "(?P<name>[^"]+)" not found',
        "the cluster has no namespace {name}, so it could not {what}",
        "make it (`kubectl create namespace {name}`), or set namespace in the cluster's settings",
    ),
    (
        r"(?P<asked>maximum (?:cpu|memory)[^;]+)",
        "the namespace limits pods ({asked}), so the cluster refused to {what}",
        "let the job take smaller workers, or ask for a wider LimitRange in namespace {namespace}",
    ),
    (
        r"namespace (?P<name>[^ ]+) because it is being terminated",
        "namespace {name} is being deleted, so the cluster refused to {what}",
        "wait until it is gone and make it anew, or use another",
    ),
)


def explain_pod(pod: Object, events: Iterable[Object] = ()) -> Trouble | None:
    """Return what is wrong with a pod, newest facts first, or nothing if it runs, ended well or merely starts."""
    name = str(pod.get("metadata", {}).get("name", "the pod"))
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return _explain_end(name, status)
    if status.get("phase") == "Running" and not _waiting(status):
        return None
    if pod.get("spec", {}).get("nodeName"):  # what was said while it waited for a node is over
        events = [event for event in events if event.get("reason") != "FailedScheduling"]
    return _explain_waiting(name, status) or _explain_schedule(name, status) or _explain_events(name, events)


def explain_lost(name: str) -> Trouble:
    """Return what to say about a pod that somebody deleted while it was needed."""
    return Trouble(
        sentence=f"pod {name} was deleted while the job needed it",
        remedy="somebody cancelled the job or drained its node; submit the job again",
        final=True,
    )


def is_clusters_doing(pod: Object) -> bool:
    """Return whether a pod that failed was ended by the cluster (evicted, preempted, drained), not by its own fault."""
    status = pod.get("status") or {}
    reason = str(status.get("reason") or "")
    disrupted = any(
        one.get("type") == "DisruptionTarget" and one.get("status") == "True" for one in status.get("conditions") or ()
    )
    return disrupted or reason in {"Evicted", "Preempted", "Preempting"} or reason in _ENDED_BY_NODE


def _explain_end(name: str, status: Object) -> Trouble:
    ended = _terminated(status)
    reason = str(status.get("reason") or ended.get("reason") or "")
    said = _short(status.get("message") or ended.get("message") or "")
    code = ended.get("exitCode")
    if "preempt" in f"{reason} {said}".lower():
        reason = "Preempted"
    elif reason.startswith("OutOf") or reason in _ENDED_BY_NODE:
        return Trouble(
            sentence=f"pod {name} was ended by its node ({reason}{': ' + said if said else ''})",
            remedy="submit the job again; another node may take it",
            final=True,
        )
    killed = " (killed)" if code == _EXIT_KILLED else ""
    sentence, remedy = _ENDS.get(
        reason, (f"pod {{name}} ended with code {code}{killed}", "see `strongroom job logs`, then submit the job again")
    )
    why = said or "its node ran short of something"
    return Trouble(sentence=sentence.format(name=name, said=why), remedy=remedy, final=True)


_ENDED_BY_NODE = frozenset(
    {"NodeLost", "NodeShutdown", "Terminated", "Shutdown", "NodeAffinity", "UnexpectedAdmissionError"}
)
_NOT_STARTED = (
    "the container of pod {name} could not be started: {said}",
    "check that the image is a Strongroom image for this flavour",
)
_ENDS: Mapping[str, tuple[str, str]] = {
    "Evicted": (
        "pod {name} was evicted: {said}",
        "give its role more memory or scratch in the settings, or free the node; submit the job again",
    ),
    "Preempted": (
        "pod {name} was preempted by pods of higher priority",
        "submit the job again when the cluster is less busy",
    ),
    "DeadlineExceeded": ("pod {name} ran longer than its namespace permits", "ask for a longer deadline there"),
    "OOMKilled": (
        "pod {name} used more memory than its limit and was killed",
        "give its role more memory: worker_memory in the job, or the role's size in the settings",
    ),
    "ContainerCannotRun": _NOT_STARTED,
    "StartError": _NOT_STARTED,
}


def _explain_waiting(name: str, status: Object) -> Trouble | None:
    waiting = _waiting(status)
    reason, said = str(waiting.get("reason") or ""), _short(waiting.get("message") or "")
    image = next((str(one.get("image")) for one in _containers(status) if one.get("state", {}).get("waiting")), "")
    if reason in {"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ErrImagePull", "ImageInspectError"}:
        return Trouble(
            sentence=f"the node cannot get the image {image} of pod {name}{': ' + said if said else ''}",
            remedy="import the image's archive on the nodes, or correct image and image_pull_secrets in the settings",
            final=reason != "ErrImagePull",  # it is tried again once before it backs off
        )
    if reason in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
        return Trouble(
            sentence=f"the node cannot make the container of pod {name}: {said}",
            remedy="check image, user and volumes in the settings",
            final=True,
        )
    return None


def _explain_schedule(name: str, status: Object) -> Trouble | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") != "PodScheduled" or condition.get("status") != "False":
            continue
        said = _short(condition.get("message") or "")
        for pattern, sentence, remedy, final in _UNSCHEDULABLE:
            if found := re.search(pattern, said):
                facts = {"pod": name, "said": said, **found.groupdict()}
                return Trouble(sentence=sentence.format(**facts), remedy=remedy.format(**facts), final=final)
        return Trouble(
            sentence=f"no node takes pod {name}: {said}", remedy="free a node or add one that fits", final=False
        )
    return None


_UNSCHEDULABLE: Sequence[tuple[str, str, str, bool]] = (
    (
        r'persistentvolumeclaim "(?P<claim>[^"]+)" not found',
        "pod {pod} needs the volume claim {claim}, which its namespace does not have",
        "make the claim, or name the right one in the settings",
        True,
    ),
    (
        r"Insufficient sgx\.intel\.com/(?P<what>\w+)",
        "no node has enough SGX enclave memory or devices left for pod {pod} ({said})",
        "install the SGX device plugin on nodes with SGX, or lower epc in the settings",
        False,
    ),
    (
        r"Insufficient (?P<what>[-./\w]+)",
        "no node has enough {what} left for pod {pod} ({said})",
        "wait for other work to end, add a node, or let the job take fewer or smaller workers",
        False,
    ),
    (
        r"(?:had |)untolerated taint",
        "every node that could take pod {pod} is tainted ({said})",
        "name the taint under tolerations in the settings",
        False,
    ),
    (
        r"didn't match Pod's node affinity/selector",
        "no node has the labels that pod {pod} asks for ({said})",
        "correct node_selector in the settings, or label the nodes that have the TEE and its runtime class",
        False,
    ),
    (
        r"unbound immediate PersistentVolumeClaims",
        "a volume claim of pod {pod} is not bound to any storage",
        "check `kubectl get pvc` and the storage class",
        False,
    ),
)


def _explain_events(name: str, events: Iterable[Object]) -> Trouble | None:
    for event in sorted(events, key=_when, reverse=True):
        reason, said = str(event.get("reason") or ""), _short(event.get("message") or "")
        if reason == "FailedCreatePodSandBox":
            no_handler = re.search(r'no runtime for "(?P<name>[^"]+)" is configured', said)
            if no_handler:
                return Trouble(
                    sentence=f"the node of pod {name} has no runtime {no_handler['name']}",
                    remedy="install Kata or CoCo on that node, or choose nodes that have it with node_selector",
                    final=True,
                )
            return Trouble(
                sentence=f"the node cannot make the sandbox of pod {name}: {said}",
                remedy="check the runtime class and the node's TEE firmware",
                final=False,
            )
        if reason in {"FailedMount", "FailedAttachVolume"}:
            return Trouble(
                sentence=f"the node cannot mount a volume of pod {name}: {said}",
                remedy="check the volume claims in the settings",
                final=False,
            )
        if reason in {"FailedScheduling", "Preempting", "Evicted"}:
            return Trouble(
                sentence=f"pod {name} is not placed: {said}", remedy="free a node or add one that fits", final=False
            )
    return None


def _containers(status: Object) -> Sequence[Object]:
    return list(status.get("containerStatuses") or ()) + list(status.get("initContainerStatuses") or ())


def _waiting(status: Object) -> Object:
    states = [(one.get("state") or {}).get("waiting") for one in _containers(status)]
    return next((state for state in states if state), {})


def _terminated(status: Object) -> Object:
    states = [(one.get("state") or {}).get("terminated") for one in _containers(status)]
    return next((state for state in states if state), {})


def _when(event: Object) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("metadata", {}).get("creationTimestamp")
        or ""
    )


def _short(text: object) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= _SHOWN else f"{flat[: _SHOWN - 1]}…"
