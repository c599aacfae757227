"""Say and check who the two ends of a channel are: greeting and proof (spec/6-attested-channel.md §2, §3).

Pure but for asking the TEE: it makes and parses messages and never touches a socket. Each end computes the binding from
what it knows itself; no digest made by the other end is ever taken.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from strongroom.attestation.appraisal import AttestationResult, Verifier
from strongroom.attestation.binding import JOB_DIGEST_BYTES, NONCE_BYTES, key_bundle_digest, report_data
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import ProtocolError
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import PublicKeys, WorkloadKeys
from strongroom.digests import digest384, same, to_text
from strongroom.errors import EvidenceError, UsageError
from strongroom.statements import PartyId, SigningKey, Statement, StatementError, VerifyKey
from strongroom.statements import sign as sign_statement

PROTOCOL = "strongroom-channel/v1"
CLIENT_AUTH_KIND, CLIENT_AUTH_VERSION = "channel-auth", 1

_GREETING = frozenset({"protocol", "role", "nonce", "signing_key", "kem_key"})


class ClientAuthError(EvidenceError):
    """A client did not prove that it speaks for its party on this channel."""


class WrongRoleError(EvidenceError):
    """The other end plays another part than the one that was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What each end says first; nothing in it is believed until the proof has been checked."""

    role: Role
    nonce: bytes
    keys: PublicKeys

    @classmethod
    def fresh(cls, *, role: Role, keys: PublicKeys) -> Self:
        """Return a greeting with a new nonce."""
        return cls(role=role, nonce=secrets.token_bytes(NONCE_BYTES), keys=keys)

    def to_json(self) -> dict[str, str]:
        """Return the message."""
        return {
            "protocol": PROTOCOL,
            "role": self.role.value,
            "nonce": _b64(self.nonce),
            "signing_key": _b64(self.keys.spki),
            "kem_key": _b64(self.keys.kem),
        }

    @classmethod
    def parse(cls, message: dict[str, Any]) -> Self:
        """Return the greeting in a message; raise ProtocolError or WorkloadKeyError for anything else."""
        if set(message) != _GREETING or not all(isinstance(value, str) for value in message.values()):
            raise ProtocolError("a greeting has protocol, role, nonce, signing_key and kem_key, and nothing else")
        if message["protocol"] != PROTOCOL:
            raise ProtocolError(
                f"the other end speaks {message['protocol'][:40]!r}, expected {PROTOCOL}",
                hint="both ends need the same release of Strongroom",
            )
        try:
            role = Role(message["role"])
            nonce, spki, kem = (_unb64(message[name]) for name in ("nonce", "signing_key", "kem_key"))
        except (ValueError, binascii.Error) as error:
            raise ProtocolError("a greeting's role is one of the five, and its other members are base64") from error
        if len(nonce) != NONCE_BYTES:
            raise ProtocolError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
        return cls(role=role, nonce=nonce, keys=PublicKeys.parse(spki=spki, kem=kem))


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """The facts of one session that both ends know: who greets whom, over which TLS session, for which job."""

    own: Greeting
    peer: Greeting
    exporter: bytes
    job_digest: bytes

    @classmethod
    def arrange(cls, *, own: Greeting, peer: Greeting, peer_spki: bytes, exporter: bytes, job_digest: bytes) -> Self:
        """Return the meeting; raise ProtocolError if the peer's greeting is not by its TLS key, or is our own."""
        if not same(peer.keys.spki, peer_spki):
            raise ProtocolError("the key in the greeting is not the key of the TLS session")
        if same(peer_spki, own.keys.spki) or same(peer.nonce, own.nonce):
            raise ProtocolError("the other end shows our own key or nonce back to us", hint="this is a reflection")
        return cls(own=own, peer=peer, exporter=exporter, job_digest=job_digest)

    def own_binding(self) -> bytes:
        """Return what our evidence must commit to."""
        return _bind(self.own, self.peer, exporter=self.exporter, job_digest=self.job_digest)

    def peer_binding(self) -> bytes:
        """Return what the peer's evidence must commit to."""
        return _bind(self.peer, self.own, exporter=self.exporter, job_digest=self.job_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, verified: an attested workload (``result``) or a party's client (``party``)."""

    role: Role
    keys: PublicKeys
    result: AttestationResult | None = None
    party: PartyId | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How this end proves itself: by its TEE, or, for a client, by its party's signature. Exactly one of the two."""

    role: Role
    keys: WorkloadKeys
    tee: Tee | None
    signer: SigningKey | None

    def __post_init__(self) -> None:
        if self.role.attests and (self.tee is None or self.signer is not None):
            raise UsageError(f"a {self.role.value} proves itself by its TEE, and by nothing else")
        if not self.role.attests and (self.signer is None or self.tee is not None):
            raise UsageError(f"a {self.role.value} proves itself by its party's signature, and by nothing else")

    def prove(self, meeting: Meeting) -> dict[str, Any]:
        """Return the message that proves this end in this very meeting."""
        binding = meeting.own_binding()
        if self.tee is not None:
            return {"evidence": self.tee.evidence(binding).to_json()}
        if self.signer is None:
            raise UsageError("no way to prove this end")
        payload = {"party": str(self.signer.party), "role": self.role.value, "binding": to_text(binding)}
        statement = sign_statement(payload, kind=CLIENT_AUTH_KIND, version=CLIENT_AUTH_VERSION, key=self.signer)
        return {"statement": statement.encode()}


def verify_proof(message: dict[str, Any], meeting: Meeting, *, verifier: Verifier, now: datetime) -> Peer:
    """Return who proved itself by ``message``; raise EvidenceError otherwise."""
    greeting = meeting.peer
    if greeting.role.attests:
        if set(message) != {"evidence"} or not isinstance(message["evidence"], dict):
            raise ProtocolError(f"a {greeting.role.value} proves itself by evidence, got {_names(message)}")
        evidence = Evidence.from_json(message["evidence"])
        result = verifier.appraise(evidence, report_data=meeting.peer_binding(), now=now)
        return Peer(role=greeting.role, keys=greeting.keys, result=result, evidence=evidence)
    if set(message) != {"statement"} or not isinstance(message["statement"], str):
        raise ProtocolError(f"a {greeting.role.value} proves itself by a statement, got {_names(message)}")
    party = _verify_client(message["statement"], meeting)
    return Peer(role=greeting.role, keys=greeting.keys, party=party)


def _verify_client(text: str, meeting: Meeting) -> PartyId:
    try:
        party, payload = _open_client(text)
    except StatementError as error:
        raise ClientAuthError(f"the client's statement does not hold: {error.message}", step="client") from error
    expected = to_text(meeting.peer_binding())
    if payload["role"] != meeting.peer.role.value or not same(str(payload["binding"]).encode(), expected.encode()):
        raise ClientAuthError(
            "the client signed for another session, key, nonce or job",
            step="client",
            hint="a signature cannot be carried from one channel to another; connect again",
        )
    return party


def _open_client(text: str) -> tuple[PartyId, dict[str, Any]]:
    """Return who signed a channel-auth statement and what; the statement names its own key, which the id must match."""
    statement = Statement.decode(text)
    payload = statement.open(kind=CLIENT_AUTH_KIND, version=CLIENT_AUTH_VERSION, signer=VerifyKey(statement.signer))
    if set(payload) != {"party", "role", "binding"}:
        raise StatementError("a channel-auth statement has party, role and binding, and nothing else")
    party = PartyId.parse(payload["party"])
    if party.fingerprint != statement.party_fingerprint:
        raise StatementError(f"it speaks for {party}, but another key signed it")
    return party, payload


def _bind(attester: Greeting, verifier: Greeting, *, exporter: bytes, job_digest: bytes) -> bytes:
    """Return what ``attester`` commits to before ``verifier``: 64 bytes in a TEE, 48 in a client's statement."""
    peer_key = key_bundle_digest(verifier.keys.spki)
    if attester.role.attests:
        return report_data(
            role=attester.role,
            nonce=verifier.nonce,
            exporter=exporter,
            own_key=attester.keys.digest,
            peer_key=peer_key,
            job_digest=job_digest,
        )
    return digest384(
        "strongroom/channel-auth/v1",
        attester.role.value.encode(),
        verifier.nonce,
        exporter,
        attester.keys.digest,
        peer_key,
        job_digest,
    )


def check_job_digest(job_digest: bytes) -> bytes:
    """Return the digest if it has 48 bytes; raise UsageError: a channel always belongs to one job."""
    if len(job_digest) != JOB_DIGEST_BYTES:
        raise UsageError(
            f"a channel is for one job, whose digest has {JOB_DIGEST_BYTES} bytes; got {len(job_digest)}",
            hint="pass digests.parse_text(jobs.spec.job_digest(statement))",
        )
    return job_digest


def _names(message: dict[str, Any]) -> str:
    return ", ".join(sorted(message))[:80] or "nothing"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
