"""Keep nonces and sessions: short-lived, bounded, in memory only (spec/4-release.md §4.2, §7.1).

A nonce answers once within a minute. A session begins with evidence, ends soon, and every request in it proves
possession of the secret that was sealed to the attested key. A restart forgets them all; workloads attest again.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from strongroom.attestation.appraisal import AttestationResult
from strongroom.attestation.roles import Role
from strongroom.broker.names import NONCE_BYTES
from strongroom.broker.parcels import Earlier
from strongroom.broker.release import TeeFacts
from strongroom.broker.seals import SECRET_BYTES, SESSION_BYTES, ReleaseSeal, request_mac
from strongroom.digests import same
from strongroom.errors import EvidenceError

NONCE_LIFETIME = timedelta(seconds=60)
SESSION_LIFETIME = timedelta(minutes=10)
MAX_NONCES = 65_536
MAX_SESSIONS = 16_384
_ROOM = 1_024  # how many give way at once, so that a flood pays one look at all of them for so many
_IDLE = 16  # a session to which no key was released weighs as much as so many others of its party


class StaleNonceError(EvidenceError):
    """A nonce was not issued here, was used before, or is older than a minute."""


class SessionError(EvidenceError):
    """A session does not exist (any more); attest again."""


class SessionProofError(EvidenceError):
    """A request in a session is not by the holder of its secret, or was sent before."""


class Nonces:
    """Nonces that were issued and not yet used; the oldest give way when there are too many."""

    def __init__(self, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._issued: OrderedDict[bytes, datetime] = OrderedDict()

    def issue(self, *, now: datetime) -> bytes:
        """Return a fresh nonce."""
        while self._issued and (
            len(self._issued) >= MAX_NONCES or next(iter(self._issued.values())) + NONCE_LIFETIME < now
        ):
            self._issued.popitem(last=False)
        nonce = self._random(NONCE_BYTES)
        self._issued[nonce] = now
        return nonce

    def use(self, nonce: bytes, *, now: datetime) -> None:
        """Use ``nonce`` up; raise StaleNonceError if it was not fresh."""
        issued = self._issued.pop(nonce, None)
        if issued is None or not issued <= now <= issued + NONCE_LIFETIME:
            raise StaleNonceError(
                "the nonce is unknown, used or older than a minute",
                step="nonce",
                hint="ask for a new nonce and answer it at once; each answers once",
            )

    def __len__(self) -> int:
        return len(self._issued)


@dataclass(slots=True, kw_only=True)
class Session:
    """One attested workload, for ten minutes at most."""

    id: bytes
    secret: bytes = field(repr=False)
    role: Role
    job: str
    party: str  # the fingerprint of the analyst whose job it is
    tee: TeeFacts
    result: AttestationResult = field(repr=False)
    key_text: str
    seal: ReleaseSeal
    ends: datetime
    counter: int = 0
    held_until: datetime | None = None  # the end of the lease of the keys that it was released
    earlier: Earlier | None = field(default=None, repr=False)  # its last release, which the next may be the same as
    asked: bytes | None = None  # the request for that; None if it came with the attestation


class Sessions:
    """The sessions that are open; when there are too many, those give way of which one party has most.

    Whoever holds a ticket may attest again and again with a workload that no owner's policy accepts. A session counts
    by how many newer ones its party has; one to which no key was released, sixteen times as much.
    """

    def __init__(self, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._open: OrderedDict[bytes, Session] = OrderedDict()

    def start(
        self,
        *,
        role: Role,
        job: str,
        party: str,
        tee: TeeFacts,
        result: AttestationResult,
        key_text: str,
        now: datetime,
    ) -> Session:
        """Open a session for a workload whose evidence was appraised."""
        while self._open and next(iter(self._open.values())).ends < now:
            self._open.popitem(last=False)
        if len(self._open) >= MAX_SESSIONS:
            self._make_room()
        random = self._random(SESSION_BYTES + SECRET_BYTES)
        session_id, secret = random[:SESSION_BYTES], random[SESSION_BYTES:]
        session = Session(
            id=session_id,
            secret=secret,
            role=role,
            job=job,
            party=party,
            tee=tee,
            result=result,
            key_text=key_text,
            seal=ReleaseSeal(secret, session=session_id),
            ends=now + SESSION_LIFETIME,
        )
        self._open[session.id] = session
        return session

    def end(self, session: Session) -> None:
        """Forget ``session``."""
        self._open.pop(session.id, None)

    def _make_room(self) -> None:
        """Forget the sessions that weigh most."""
        newer: Counter[tuple[str, bool]] = Counter()
        weights: list[tuple[int, bytes]] = []
        for session in reversed(self._open.values()):
            idle = session.held_until is None
            newer[session.party, idle] += 1
            weights.append((newer[session.party, idle] * (_IDLE if idle else 1), session.id))
        for _, heavy in heapq.nlargest(_ROOM, weights):
            del self._open[heavy]

    def open_at(self, now: datetime) -> list[Session]:
        """Return the sessions that have not ended."""
        return [session for session in self._open.values() if session.ends > now]

    def verify(
        self, session_id: bytes, *, counter: int, proof: bytes, path: str, body: bytes, now: datetime
    ) -> Session:
        """Return the session if ``proof`` is by its holder over exactly this request, and the counter moved on."""
        session = self._open.get(session_id)
        if session is None or session.ends <= now:
            raise SessionError(
                "no such session, or it ended", step="session", hint="attest again; a session lasts ten minutes"
            )
        expected = request_mac(session.secret, path=path, session=session_id, counter=counter, body=body)
        if not same(proof, expected):
            raise SessionProofError("the request does not prove possession of the session's secret", step="session")
        if counter <= session.counter:
            raise SessionProofError(
                f"request {counter} of the session came after request {session.counter}", step="session"
            )
        session.counter = counter
        return session
