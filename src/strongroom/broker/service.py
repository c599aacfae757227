"""Serve the doors over TLS 1.3, and nothing else (spec/4-release.md §4).

Routes a request to its door, proves sessions, turns errors into what the caller may know. Every answer carries the
newest checkpoint. It logs kinds and paths, never bodies.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pydantic_core

from strongroom.broker.desk import ConflictError, Desk, RecordedRefusalError, StrangerError
from strongroom.broker.doors.analysts import AnalystsDoor
from strongroom.broker.doors.owners import OwnersDoor
from strongroom.broker.doors.public import PublicDoor
from strongroom.broker.doors.standby import StandbyDoor
from strongroom.broker.doors.workloads import WorkloadsDoor
from strongroom.broker.names import CHECKPOINT_HEADER, KNOWN_HEADER, PROOF_HEADER, SESSION_HEADER
from strongroom.broker.requests import MalformedRequestError, decode64, encode64
from strongroom.broker.sessions import Session, SessionError, SessionProofError, StaleNonceError
from strongroom.errors import (
    EnvelopeError,
    EvidenceError,
    LedgerError,
    PolicyError,
    RefusedError,
    StrongroomError,
    UsageError,
)

SMALL = 16 << 10
MEDIUM = 1 << 20
LARGE = 16 << 20
_MOST_DIGITS = 15

log = logging.getLogger("strongroom.broker")

Open = Callable[[bytes], Awaitable[dict[str, Any]]]
Proven = Callable[[Session, bytes], Awaitable[dict[str, Any]]]


class Scope(Protocol):
    """What RSGI says of a request."""

    proto: str
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A door's opening: who answers, how much it takes, whether a session must be proven first."""

    limit: int
    open: Open | None = None
    proven: Proven | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back: a status and a JSON object."""

    status: int
    body: bytes


class Service:
    """The broker's one application; ``serve`` is what the server calls for each request."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        public, owners = PublicDoor(desk), OwnersDoor(desk)
        analysts, workloads = AnalystsDoor(desk), WorkloadsDoor(desk)
        self._routes: dict[str, Route] = {
            "/v1/evidence": Route(limit=SMALL, open=public.evidence),
            "/v1/nonce": Route(limit=SMALL, open=public.nonce),
            "/v1/checkpoint": Route(limit=SMALL, open=public.checkpoint),
            "/v1/entries": Route(limit=SMALL, open=public.entries),
            "/v1/inclusion": Route(limit=SMALL, open=public.inclusion),
            "/v1/consistency": Route(limit=SMALL, open=public.consistency),
            "/v1/members": Route(limit=MEDIUM, open=owners.enrol),
            "/v1/datasets": Route(limit=LARGE, open=owners.register),
            "/v1/adoptions": Route(limit=LARGE, open=owners.adopt),
            "/v1/policies": Route(limit=LARGE, open=owners.update_policy),
            "/v1/revocations": Route(limit=SMALL, open=owners.revoke),
            "/v1/approvals": Route(limit=SMALL, open=owners.approve),
            "/v1/pending": Route(limit=SMALL, open=owners.pending),
            "/v1/jobs": Route(limit=LARGE, open=analysts.submit),
            "/v1/results": Route(limit=SMALL, open=analysts.fetch),
            "/v1/handover": Route(limit=MEDIUM, open=StandbyDoor(desk).hand_over),
            "/v1/attest": Route(limit=MEDIUM, open=workloads.attest),
            "/v1/release": Route(limit=MEDIUM, proven=workloads.release),
            "/v1/renew": Route(limit=SMALL, proven=workloads.renew),
            "/v1/admissions": Route(limit=MEDIUM, proven=workloads.admit),
            "/v1/answers": Route(limit=MEDIUM, proven=workloads.account),
            "/v1/outputs": Route(limit=LARGE, proven=workloads.deposit),
            "/v1/withheld": Route(limit=MEDIUM, proven=workloads.withhold),
        }

    async def __rsgi__(self, scope: Scope, protocol: Any) -> None:  # noqa: ANN401  granian's protocol object
        """Answer one request; whatever happens, the answer is JSON and says no more than it must."""
        if scope.proto != "http":
            protocol.close(None)
            return
        answer = await self._answer(scope, protocol)
        self._desk.tally.answers[scope.path if scope.path in self._routes else "none", answer.status] += 1
        note = self._desk.book.note_header
        headers = [("content-type", "application/json"), (CHECKPOINT_HEADER, note), ("cache-control", "no-store")]
        if proof := self._continue(str(scope.headers.get(KNOWN_HEADER) or "")):
            headers.append((PROOF_HEADER, encode64(proof)))
        protocol.response_bytes(answer.status, headers, answer.body)

    async def _answer(self, scope: Scope, protocol: Any) -> Answer:  # noqa: ANN401  granian's protocol object
        try:
            route = self._routes.get(scope.path)
            if route is None or scope.method != "POST":
                return error_answer(404, "UnknownDoorError", public=True, message=f"no door at {scope.path[:80]}")
            body = await read_body(scope, protocol, route.limit)
            if route.open is not None:
                found = await route.open(body)
            elif route.proven is not None:
                found = await route.proven(self._prove(scope, body), body)
            else:
                return error_answer(404, "UnknownDoorError", public=False, message="")
            return Answer(status=200, body=pydantic_core.to_json(found))
        except StrongroomError as error:
            return explain(error, scope.path)
        except Exception:
            log.exception("request_failed", extra={"path": scope.path})
            return error_answer(500, "InternalError", public=False, message="")

    def _continue(self, known: str) -> bytes:
        """Return the proof that the newest checkpoint continues what the caller has seen, or nothing."""
        log = self._desk.book.log
        if not known.isdecimal() or len(known) > _MOST_DIGITS or not 0 < int(known) < log.size:
            return b""
        return b"".join(log.consistency_proof(int(known), log.size))

    def _prove(self, scope: Scope, body: bytes) -> Session:
        """Return the session that the request proves to belong to."""
        parts = str(scope.headers.get(SESSION_HEADER) or "").split(".")
        if len(parts) != 3 or not parts[1].isdecimal() or len(parts[1]) > _MOST_DIGITS:  # noqa: PLR2004
            raise SessionProofError(f"the {SESSION_HEADER} header is <session>.<counter>.<proof>", step="session")
        return self._desk.sessions.verify(
            decode64(parts[0], name="the session"),
            counter=int(parts[1]),
            proof=decode64(parts[2], name="the proof"),
            path=scope.path,
            body=body,
            now=self._desk.clock(),
        )


async def read_body(scope: Scope, protocol: Any, limit: int) -> bytes:  # noqa: ANN401  granian's protocol object
    """Return the body; raise MalformedRequestError as soon as it is too large."""
    stated = str(scope.headers.get("content-length") or "0")
    if not stated.isdecimal() or int(stated) > limit:
        raise MalformedRequestError(f"this door takes at most {limit} bytes")
    if stated != "0" and "transfer-encoding" not in scope.headers:  # HTTP/1.1 then ends the body where it says.
        whole: bytes = await protocol()
        return whole
    parts, size = [], 0
    async for part in protocol:
        size += len(part)
        if size > limit:
            raise MalformedRequestError(f"this door takes at most {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def explain(error: StrongroomError, path: str) -> Answer:
    """Return what the caller may know: reasons to those concerned, a kind to strangers."""
    log.info("request_refused", extra={"path": path, "kind": error.kind})
    if isinstance(error, RecordedRefusalError):
        extra = {"reasons": list(error.reasons), "index": error.index}
        return error_answer(403, "RefusedError", public=True, message=error.message, hint=error.hint, **extra)
    if isinstance(error, RefusedError):
        return error_answer(403, "RefusedError", public=True, message=error.message, reasons=list(error.reasons))
    if isinstance(error, StrangerError | SessionError | SessionProofError | StaleNonceError):
        return error_answer(401, error.kind, public=False, message=error.message)
    if isinstance(error, ConflictError):
        return error_answer(409, error.kind, public=True, message=error.message, hint=error.hint)
    # What is wrong with a document is told to whoever sent it: it says nothing that the sender did not.
    if isinstance(
        error, MalformedRequestError | PolicyError | EnvelopeError | LedgerError | EvidenceError | UsageError
    ):
        return error_answer(400, error.kind, public=True, message=error.message, hint=error.hint)
    return error_answer(500 if error.exit_code == 1 else 400, error.kind, public=False, message=error.message)


def error_answer(status: int, kind: str, *, public: bool, message: str, **more: Any) -> Answer:  # noqa: ANN401  JSON
    """Return an error with a request id; whatever is not ``public`` stays unsaid."""
    body: dict[str, Any] = {"kind": kind, "request": secrets.token_hex(8)}
    if public:
        body |= {"message": message, **more}
    return Answer(status=status, body=json.dumps(body).encode())
