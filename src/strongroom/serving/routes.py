"""Answer one caller's HTTP requests: the Open Inference Protocol v2, chat, and receipts (spec/8-serving.md §3).

Every answer that holds anything of the model is paid for before it is computed, cut to what the policies allow, and
recorded before it leaves.
"""

from __future__ import annotations

import json
from typing import Any, Final

from strongroom import __version__
from strongroom.errors import RefusedError, StrongroomError, TransportError, UsageError
from strongroom.serving.accounts import Accounts, QuotaError, answer_leaf, request_digest
from strongroom.serving.batching import Batcher
from strongroom.serving.chat import RECEIPT_HEADER, ChatDesk, answer_chat
from strongroom.serving.http import Request, Response
from strongroom.serving.model import Loaded, Model
from strongroom.serving.tensors import BINARY_HEADER, encode_answer, parse_request, read_header_bytes
from strongroom.workload.ending import describe_defect

EXTENSIONS: Final = ("binary_tensor_data",)


class NotFoundError(UsageError):
    """There is nothing at this path."""


class MethodError(UsageError):
    """There is something at this path, and it is asked for in another way."""

    def __init__(self, path: str, *, allowed: str) -> None:
        super().__init__(f"{path[:80]} is asked for with {allowed}", hint=f"use {allowed}")
        self.allowed = allowed


class Caller:
    """One caller's way to the model."""

    def __init__(
        self, fingerprint: str, *, name: str, job: str, model: Model, batcher: Batcher, accounts: Accounts
    ) -> None:
        self._fingerprint = fingerprint
        self._name = name
        self._job = job
        self._model = model
        self._batcher = batcher
        self._accounts = accounts
        self._infer_path = f"/v2/models/{name}/infer"

    @property
    def fingerprint(self) -> str:
        """Return whose way it is."""
        return self._fingerprint

    def handle(self, request: Request) -> Response:
        """Return the response to ``request``; every error of ours becomes one."""
        try:
            self._verify_permitted()
            return self._route(request)
        except StrongroomError as error:
            if not isinstance(error, QuotaError):
                self._accounts.refuse()
            return explain(error)
        except Exception as error:  # noqa: BLE001  whatever a caller sent, it is told that this was refused
            self._accounts.refuse()
            return explain(describe_defect(error))

    def _route(self, request: Request) -> Response:
        if request.path == self._infer_path and request.method == "POST":  # nearly all that is asked
            return self._infer(request)
        path = request.path.partition("?")[0].rstrip("/")
        if path == "/v1/chat/completions":
            _expect_method(request, "POST")
            return answer_chat(self._chat_desk(), request, name=self._name)
        if request.method == "GET" and path.startswith("/strongroom/v1/receipts/"):
            return self._receipt(path.rpartition("/")[2])
        if (said := self._state().get(path)) is not None:
            _expect_method(request, "GET")
            return _json(said, status=503 if said.get("ready") is False else 200)
        return self._route_model(path, request)

    def _verify_permitted(self) -> None:
        """Raise RefusedError once an owner's policy no longer names this caller; its channel may be older."""
        if all(party.fingerprint != self._fingerprint for party in self._model.rules.callers):
            raise RefusedError(
                "this caller may ask no more",
                reasons=("not every owner's policy names it among its callers any more",),
                hint="ask the owners to name you in [serving] callers",
            )

    def _state(self) -> dict[str, dict[str, Any]]:
        """Return what is answered without the model, by path."""
        model = {"id": self._name, "object": "model", "created": 0, "owned_by": "strongroom"}
        return {
            "/v2": {"name": "strongroom", "version": __version__, "extensions": list(EXTENSIONS)},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": self._model.ready},
            "/v1/models": {"object": "list", "data": [model]},
        }

    def _route_model(self, path: str, request: Request) -> Response:
        prefix = f"/v2/models/{self._name}"
        if path != prefix and not path.startswith(f"{prefix}/"):
            raise NotFoundError(f"there is nothing at {path[:80] or '/'}", hint=f"the model is at {prefix}")
        rest = path[len(prefix) :].strip("/").split("/")
        loaded = self._model.loaded
        if rest[:1] == ["versions"]:
            if rest[1:2] != [loaded.version]:
                raise NotFoundError(f"version {loaded.version} is served", hint="leave the version out")
            rest = rest[2:] or [""]
        if rest == ["infer"]:
            _expect_method(request, "POST")
            return self._infer(request)
        if rest == [""]:
            _expect_method(request, "GET")
            return _json(self._metadata(loaded))
        if rest == ["ready"]:
            _expect_method(request, "GET")
            return _json({"name": self._name, "ready": self._model.ready}, status=200 if self._model.ready else 503)
        raise NotFoundError(f"there is nothing at {path[:80]}", hint=f"POST {prefix}/infer")

    def _infer(self, request: Request) -> Response:
        asked = parse_request(request.body, header_bytes=read_header_bytes(request.headers))
        self._accounts.spend(self._fingerprint, asked.rows)
        outputs, version = self._batcher.ask(asked.inputs, rows=asked.rows)
        body, head_bytes = encode_answer(outputs, asked, model=self._name, version=version)
        headers = {RECEIPT_HEADER: self._record(request, body, version)}
        if head_bytes is None:
            return Response(status=200, body=body, headers=headers)
        headers[BINARY_HEADER] = str(head_bytes)
        return Response(status=200, body=body, kind="application/octet-stream", headers=headers)

    def _record(self, request: Request, body: bytes, version: str) -> str:
        asked = request_digest(method=request.method, path=request.path, body=request.body)
        leaf = answer_leaf(
            job=self._job, caller=self._fingerprint, request=asked, answer=body, model=f"{self._name}@{version}"
        )
        return self._accounts.record(self._fingerprint, leaf)

    def _chat_desk(self) -> ChatDesk:
        loaded = self._model.loaded  # a newer one may take over before the last piece has left
        return ChatDesk(
            spend=lambda: self._accounts.spend(self._fingerprint, 1),
            talk=lambda messages, settings: self._model.chat(loaded, messages, settings),
            rules=lambda: self._model.rules,
            record=lambda request, body: self._record(request, body, loaded.version),
        )

    def _receipt(self, place: str) -> Response:
        found = self._accounts.receipt(place, caller=self._fingerprint)
        if found is None:
            raise NotFoundError(
                f"no receipt {place[:40]!r} of this caller", hint="its window closes some seconds after the answer"
            )
        return _json(found.encode())

    def _metadata(self, loaded: Loaded) -> dict[str, Any]:
        return {
            "name": self._name,
            "versions": [loaded.version],
            "platform": "strongroom",
            "inputs": [dict(one) for one in loaded.declared.inputs],
            "outputs": [dict(one) for one in loaded.declared.outputs],
        }


def explain(error: StrongroomError) -> Response:
    """Return what a caller is told of ``error``: every reason of a refusal, and what to do."""
    told: dict[str, Any] = {"error": error.message, "kind": error.kind}
    if error.hint:
        told["hint"] = error.hint
    if isinstance(error, RefusedError) and error.reasons:
        told["reasons"] = list(error.reasons)
    if isinstance(error, MethodError):
        return _json(told, status=405, headers={"allow": error.allowed})
    if isinstance(error, QuotaError):
        return _json(told, status=429, headers={"retry-after": str(error.retry_after)})
    kinds = ((NotFoundError, 404), (UsageError, 400), (RefusedError, 403), (TransportError, 503))
    status = next((status for kind, status in kinds if isinstance(error, kind)), 500)
    return _json(told, status=status)


def _expect_method(request: Request, method: str) -> None:
    """Raise MethodError unless the request is made with ``method``."""
    if request.method != method:
        raise MethodError(request.path, allowed=method)


def _json(value: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(status=status, body=json.dumps(value).encode(), headers=headers or {})
