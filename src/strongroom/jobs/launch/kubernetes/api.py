"""Speak to a Kubernetes API server: make, read, watch and delete objects, follow logs, open a tunnel to a pod.

Objects are plain JSON as the server gives them. Whatever it refuses becomes a :class:`ClusterRefusedError` with one
sentence and its remedy; no call waits without a deadline.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from strongroom.answers import read_answer
from strongroom.errors import StrongroomError, TransportError
from strongroom.jobs.launch.kubernetes.access import Access
from strongroom.jobs.launch.kubernetes.failures import Trouble, code_of, explain_refusal
from strongroom.jobs.launch.kubernetes.tunnel import Tunnel

_SECONDS = 30.0
_WATCH_SECONDS = 240
_ANSWER_SECONDS = 120.0  # for a whole answer, however it drips
_MOST_BYTES = 64 << 20  # a list of some thousand pods has a tenth of it
_MOST_STATUS_BYTES = 16 << 10
_MERGE_PATCH = "application/merge-patch+json"
_GROUPS = {
    "pods": "/api/v1",
    "configmaps": "/api/v1",
    "events": "/api/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "jobs": "/apis/batch/v1",
}
_PLURAL = {"Pod": "pods", "ConfigMap": "configmaps", "NetworkPolicy": "networkpolicies", "Job": "jobs"}
_GONE = 410
_FIRST_ERROR = 400

Object = dict[str, Any]


class ClusterRefusedError(StrongroomError):
    """The API server refused a request; ``trouble`` says why, and ``code`` is HTTP's."""

    def __init__(self, trouble: Trouble, *, code: int) -> None:
        super().__init__(trouble.sentence, hint=trouble.remedy)
        self.trouble = trouble
        self.code = code


class WatchGoneError(StrongroomError):
    """The server no longer remembers where a watch left off; list again."""


class Cluster:
    """One namespace of one cluster."""

    def __init__(self, access: Access, *, namespace: str, seconds: float = _SECONDS) -> None:
        self.namespace = namespace
        self._access = access
        self._http = httpx.Client(base_url=access.server, verify=access.tls, timeout=seconds, trust_env=True)

    @property
    def access(self) -> Access:
        """Return how this cluster is reached."""
        return self._access

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def create(self, manifest: Mapping[str, Any], *, what: str) -> Object:
        """Make an object and return it as the cluster keeps it."""
        return self._ask("POST", self._path(_PLURAL[manifest["kind"]]), what=what, body=manifest)

    def get(self, kind: str, name: str) -> Object:
        """Return an object."""
        return self._ask("GET", f"{self._path(kind)}/{name}", what=f"read {kind} {name}")

    def list(self, kind: str, *, labels: str = "", fields: str = "") -> Object:
        """Return a list with its resourceVersion."""
        return self._ask("GET", self._path(kind), what=f"list {kind}", query=_selectors(labels, fields))

    def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> Object:
        """Change an object as a JSON merge patch says (RFC 7386), and return it."""
        path = f"{self._path(kind)}/{name}"
        return self._ask("PATCH", path, what=f"change {kind} {name}", body=change, content=_MERGE_PATCH)

    def delete(self, kind: str, name: str, *, grace: int | None = None) -> bool:
        """Delete an object and what it owns; return whether it was there."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            self._ask("DELETE", f"{self._path(kind)}/{name}", what=f"delete {kind} {name}", body=body)
        except ClusterRefusedError as error:
            if error.code == httpx.codes.NOT_FOUND:
                return False
            raise
        return True

    @contextmanager
    def watch(self, kind: str, *, labels: str, version: str) -> Iterator[Iterator[tuple[str, Object]]]:
        """Yield (ADDED, MODIFIED, DELETED or BOOKMARK, object) from ``version`` on, for some minutes.

        Raise WatchGoneError if the server no longer knows that version.
        """
        query = {
            **_selectors(labels, ""),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        timeout = httpx.Timeout(_SECONDS, read=_WATCH_SECONDS + _SECONDS)
        with self._stream(self._path(kind), what=f"watch {kind}", query=query, timeout=timeout) as lines:

            def events() -> Iterator[tuple[str, Object]]:
                for line in lines:
                    said = json.loads(line)
                    if said["type"] == "ERROR":
                        if said["object"].get("code") == _GONE:
                            raise WatchGoneError("the watch is too old")
                        raise self._refusal(said["object"], what=f"watch {kind}")
                    yield str(said["type"]), said["object"]

            yield events()

    @contextmanager
    def follow_log(
        self,
        pod: str,
        *,
        container: str,
        follow: bool = True,
        tail: int | None = None,
        silence: float | None = None,
    ) -> Iterator[Iterator[str]]:
        """Yield the lines of a container's log, from its beginning or its last ``tail`` lines.

        A log that is followed may be quiet for ``silence`` seconds, for ever by default; TransportError after that.
        """
        query = {"container": container, "follow": "true" if follow else "false"}
        if tail is not None:
            query["tailLines"] = str(tail)
        timeout = httpx.Timeout(_SECONDS, read=silence if follow else _SECONDS)
        path = f"{self._path('pods')}/{pod}/log"
        with self._stream(path, what=f"read the log of pod {pod}", query=query, timeout=timeout) as lines:
            yield lines

    def open_tunnel(self, pod: str, port: int) -> Tunnel:
        """Return a local address whose connections end at ``port`` of the pod."""
        address = urlsplit(self._access.server)
        path = f"{address.path}{self._path('pods')}/{pod}/portforward?{urlencode({'ports': port})}"
        return Tunnel(f"wss://{address.netloc}{path}", access=self._access, port=port)

    def _path(self, kind: str) -> str:
        return f"{_GROUPS[kind]}/namespaces/{self.namespace}/{kind}"

    def _ask(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Object:
        try:
            headers = {**self._access.headers(), "Content-Type": content}
            request = {"params": query, "json": body, "headers": headers}
            ends = time.monotonic() + _ANSWER_SECONDS
            answer = read_answer(self._http, method, path, most=_MOST_BYTES, ends=ends, **request)
            if answer.status >= _FIRST_ERROR:
                raise self._refusal(_status(answer.status, answer.body), what=what)
            read = json.loads(answer.body)
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise self._unreachable(error) from error
        if not isinstance(read, dict):
            raise TransportError(f"the API server answered with something else than an object to {what}")
        return read

    @contextmanager
    def _stream(
        self, path: str, *, what: str, query: Mapping[str, str], timeout: httpx.Timeout
    ) -> Iterator[Iterator[str]]:
        try:
            headers = dict(self._access.headers())
            with self._http.stream("GET", path, params=query, headers=headers, timeout=timeout) as answer:
                if answer.status_code >= _FIRST_ERROR:
                    said = next(answer.iter_bytes(_MOST_STATUS_BYTES), b"")
                    status = _status(answer.status_code, said)
                    if answer.status_code == _GONE:
                        raise WatchGoneError("the watch is too old")
                    raise self._refusal(status, what=what)
                yield answer.iter_lines()
        except (httpx.HTTPError, ValueError) as error:
            raise self._unreachable(error) from error

    def _refusal(self, status: Object, *, what: str) -> ClusterRefusedError:
        trouble = explain_refusal(status, what=what, namespace=self.namespace)
        return ClusterRefusedError(trouble, code=code_of(status))

    def _unreachable(self, error: Exception) -> TransportError:
        return TransportError(
            f"the API server {self._access.server} does not answer: {str(error)[:200] or type(error).__name__}",
            hint="check your network and `kubectl cluster-info`",
        )


def _status(code: int, body: bytes) -> Object:
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict):
        status = {"message": body[:200].decode("utf-8", "replace")}
    return {**status, "code": code}


def _selectors(labels: str, fields: str) -> dict[str, str]:
    chosen = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in chosen.items() if value}
