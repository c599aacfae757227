"""The door for workloads: attest, get keys, renew, admit members, deposit outputs (spec/4-release.md §7-§9).

Only evidence opens this door. Every policy is evaluated anew at every release and renewal, on verified facts; the
answer is in the ledger before it is sent, and keys are sealed to the attested key.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from strongroom.attestation.appraisal import AttestationResult
from strongroom.attestation.binding import KEY_DIGEST_BYTES, key_bundle_digest, report_data
from strongroom.attestation.claims import Claims
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import PublicKeys
from strongroom.broker.desk import ConflictError, Desk, StrangerError
from strongroom.broker.doors.answers import AnswersDoor
from strongroom.broker.names import NONCE_BYTES
from strongroom.broker.parcels import Earlier, Parcels, keep
from strongroom.broker.records import USES, Job, JobInput, Output, text_change
from strongroom.broker.release import (
    InputCase,
    Ruling,
    Standing,
    TeeFacts,
    Term,
    head_role,
    missing_approvals,
    rule,
    shorten,
)
from strongroom.broker.requests import MalformedRequestError, Message, decode64, encode64
from strongroom.broker.seals import SECRET_BYTES, admission_mac, session_info, ticket_digest
from strongroom.broker.sessions import Session
from strongroom.broker.tally import CollateralSeen
from strongroom.catalog.store import Change
from strongroom.digests import parse_text, same, to_text
from strongroom.envelope.hpke import seal
from strongroom.errors import EvidenceError
from strongroom.ledger.entry import EntryKind
from strongroom.policy.document import policy_digest
from strongroom.policy.evaluate import Refusal
from strongroom.policy.fusion import fuse
from strongroom.policy.shapes import when_text

MEMBER_ROLES = (Role.WORKER, Role.EGRESS)
MAX_EVIDENCE = 256 << 10
MAX_DETAILS = 16 << 10
MAX_SEALED = 1 << 20


class WorkloadsDoor:
    """Serves attested workloads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._peer_key = key_bundle_digest(desk.keys.public.tls_spki)
        self._answers = AnswersDoor(desk)
        self._parcels = Parcels(desk.state)
        self._released: OrderedDict[tuple[str, Role, frozenset[str], str], Earlier] = OrderedDict()

    async def attest(self, body: bytes) -> dict[str, Any]:
        """Open a session for a workload that proves what it is, for one job, with a ticket or an admission.

        With ``datasets``, their release comes along: ruled on after the evidence, as the session's first request. If it
        is refused there is no session either.
        """
        message = Message.parse(
            body, "role", "nonce", "evidence", "spki", "kem", "job", optional=("ticket", "admission", "datasets")
        )
        role = Role.parse(message.text("role"))
        nonce = message.raw("nonce", size=NONCE_BYTES)
        keys = PublicKeys.parse(spki=message.raw("spki"), kem=message.raw("kem"))
        evidence = Evidence.from_json(message.mapping("evidence"))
        job = self._introduce(message, role, keys)
        try:
            self._desk.nonces.use(nonce, now=self._desk.clock())
            await self._desk.collateral.prepare(evidence.quote)
            now = self._desk.clock()
            result = self._desk.verifier.appraise(
                evidence,
                report_data=report_data(
                    role=role,
                    nonce=nonce,
                    exporter=b"",
                    own_key=keys.digest,
                    peer_key=self._peer_key,
                    job_digest=parse_text(job.digest),
                ),
                now=now,
            )
        except EvidenceError as error:
            await self._desk.keep_memory()  # Newer collateral counts, also if it is what revoked this very platform.
            facts = {"job": job.id, "role": role.value, "step": error.step, "key": to_text(keys.digest)}
            await self._desk.refuse(
                f"attestation of the {role.value}", facts=facts, reasons=[error.message], hint=error.hint
            )
        await self._desk.keep_memory()
        if self._desk.state.jobs.get(job.id) is not job:  # Another may have used the ticket meanwhile.
            job = self._introduce(message, role, keys)
        if isinstance(result.claims, Claims):
            self._desk.tally.collateral[result.tee] = CollateralSeen(
                expires=result.claims.expires, evaluation_number=result.claims.evaluation_number
            )
        if role is head_role(job.kind) and not job.driver:
            await self._bind_driver(job, keys.digest)
        session = self._desk.sessions.start(
            role=role,
            job=job.id,
            party=job.analyst.fingerprint,
            tee=TeeFacts.of(result, role=role.value),
            result=result,
            key_text=to_text(keys.digest),
            now=now,
        )
        released = await self._release_first(session, message) if "datasets" in message else {}
        info = session_info(session=session.id, nonce=nonce, job_digest=parse_text(job.digest))
        return {
            "session": encode64(session.id),
            "secret": encode64(seal(keys.kem, session.secret, info=info)),
            "seconds": (session.ends - now).total_seconds(),
            **released,
        }

    async def release(self, session: Session, body: bytes) -> dict[str, Any]:
        """Release keys of the job's datasets, sealed to the attested key, if every owner of every input agrees."""
        counter = session.counter  # This request's: nothing was awaited since it was proven.
        return await self._release(session, counter, asked=body, read=lambda: Message.parse(body, "datasets"))

    async def _release_first(self, session: Session, message: Message) -> dict[str, Any]:
        """Release what the attestation itself asked for; it counts as request 1 of the session."""
        session.counter = 1
        try:
            return {"release": await self._release(session, 1, asked=None, read=lambda: message)}
        except BaseException:
            self._desk.sessions.end(session)
            raise

    async def _release(
        self, session: Session, counter: int, *, asked: bytes | None, read: Callable[[], Message]
    ) -> dict[str, Any]:
        """Rule on a release and carry it out: the one way to a key."""
        (job, newer), now = self._repin(self._job(session)), self._desk.clock()
        cases = self._desk.cases(job)
        earlier = session.earlier
        if earlier is not None and asked == session.asked:
            term = earlier.standing.rule_again(job, cases, tee=session.tee, now=now)
        else:
            term = None
        if earlier is None or term is None:
            earlier, term = await self._rule_anew(session, job, cases, wanted=_read_wanted(job, read()), now=now)
            if session.role is not Role.EGRESS:  # Its recipients' keys may change.
                session.earlier, session.asked = earlier, asked
        parcel = earlier.parcel
        sealed = session.seal.seal(parcel.plain, counter=counter, terms=parcel.terms)
        changes = _first_use(job, newer, self._desk.state.uses)
        written = await self._desk.write_grant(
            earlier.form,
            {"key": session.key_text, "expires": when_text(term.expires)},
            changes=changes,
            administrative=bool(changes) and any(case.policy and case.policy.max_uses is not None for case in cases),
        )
        session.held_until = term.expires
        return {
            "sealed": encode64(sealed),
            "datasets": parcel.granted,
            "policy_digest": parcel.policy_digest,
            "lease": term.lease.total_seconds(),
            "index": written.index,
        }

    async def renew(self, session: Session, body: bytes) -> dict[str, Any]:
        """Renew the lease if every policy still holds; only a refusal changes anything, so only it is written down."""
        Message.parse(body)
        await self._desk.book.stand_alone()  # A clone may have taken the revocation that this broker never heard of.
        job = self._job(session)
        ruling = await self._rule(session, job, "renewal of the lease")
        session.held_until = ruling.term.expires
        return {"lease": ruling.term.lease.total_seconds(), "newer": [one.dataset for one in self._repin(job)[1]]}

    async def account(self, session: Session, body: bytes) -> dict[str, Any]:
        """Close a window of an endpoint's answers and open the next, if every policy still holds (spec/8 §5)."""
        job = self._answers.about(session)
        asked = self._answers.read(job, body)
        if asked[2] is not None:  # What was answered is written down even if nothing may be answered any more.
            await self._rule(session, job, "opening of a window of answers")
        return await self._answers.account(job, asked, about=self._about(session, job))

    async def admit(self, session: Session, body: bytes) -> dict[str, Any]:
        """Rule on a member that the driver appraised, write the ruling down, and return its letter if it is admitted.

        The driver reports what it verified and its own reasons; every owner's policy is asked as at a release, so a
        member that would get no keys is not admitted either.
        """
        message = Message.parse(
            body, "role", "key", "tee", "measurement", "tier", "simulated", "tcb_status", "advisories", "reasons"
        )
        if session.role is not Role.DRIVER:
            raise StrangerError("only the driver admits members")
        role = Role.parse(message.text("role"))
        if role not in MEMBER_ROLES:
            raise MalformedRequestError("a member is a worker or egress")
        key = message.raw("key", size=KEY_DIGEST_BYTES)
        job = self._job(session)
        facts = TeeFacts(
            role=role.value,
            tee=message.text("tee", limit=40),
            tier=message.text("tier", limit=40),
            simulated=bool(message.fields["simulated"]),
            measurement=message.text("measurement", limit=200),
            tcb_status=message.text("tcb_status", limit=80),
            advisories=message.texts("advisories", limit=64),
        )
        ruling = rule(job, self._desk.cases(job), tee=facts, now=self._desk.clock())
        reasons = shorten((*message.texts("reasons"), *(ruling.reasons if isinstance(ruling, Refusal) else ())))
        written = await self._desk.write(
            EntryKind.ADMISSION,
            {
                "job": job.id,
                "role": role.value,
                "admitted": not reasons,
                "key": to_text(key),
                "measurement": facts.measurement,
                "tier": facts.tier,
                "simulated": facts.simulated,
                "tcb_status": facts.tcb_status,
                "advisories": list(facts.advisories),
            },
            reasons=reasons,
        )
        secret = self._desk.keys.admission_secret
        letter = admission_mac(secret, job_digest=parse_text(job.digest), role=role.value, key_digest=key)
        return {"admission": "" if reasons else encode64(letter), "reasons": list(reasons), "index": written.index}

    async def deposit(self, session: Session, body: bytes) -> dict[str, Any]:
        """Take an output that egress passed, with its key sealed to each recipient."""
        message = Message.parse(body, "output", "digest", "location", "details", "sealed")
        job = self._egress_job(session)
        name, digest = message.text("output", limit=200), message.text("digest", limit=200)
        parse_text(digest)
        sealed = {party: _sealed_text(value) for party, value in message.mapping("sealed").items()}
        recipients = job.outputs.get(name)
        if recipients is None or set(sealed) != {party.fingerprint for party in recipients}:
            raise MalformedRequestError("an output is one of the job's, sealed to exactly its recipients")
        await self._rule(session, job, f"deposit of output {name}")
        known = self._desk.state.outputs.get(f"{job.id}/{name}")
        output = Output(
            job=job.id,
            name=name,
            digest=digest,
            location=message.text("location"),
            details=_small(message.mapping("details")),
            reasons=(),
            sealed=sealed,
            created=self._desk.clock(),
        )
        fused = fuse([self._desk.state.policies[one.dataset] for one in job.inputs])
        waits = bool(missing_approvals(output, fused, approved=self._desk.state.approvals.get(output.id, {})))
        again = known is not None and known.digest == digest and known.sealed == sealed  # An answer got lost.
        written = None if again else await self._write_output(session, job, output)
        return {"output": output.id, "state": "pending" if waits else "released", "index": written}

    async def withhold(self, session: Session, body: bytes) -> dict[str, Any]:
        """Write down that egress refused an output, with every reason; no key of it exists."""
        message = Message.parse(body, "output", "reasons")
        job = self._egress_job(session)
        reasons = message.texts("reasons")
        if not reasons:
            raise MalformedRequestError("a refusal has reasons")
        output = Output(
            job=job.id,
            name=message.text("output", limit=200),
            digest="",
            location="",
            details={},
            reasons=reasons,
            sealed={},
            created=self._desk.clock(),
        )
        return {"output": output.id, "state": "refused", "index": await self._write_output(session, job, output)}

    def _introduce(self, message: Message, role: Role, keys: PublicKeys) -> Job:
        """Return the job that the ticket or the admission is for; raise StrangerError for any other caller."""
        digest = message.text("job", limit=200)
        job = self._desk.state.jobs.get(parse_text(digest).hex()[:32])
        if job is None or job.digest != digest:
            raise StrangerError("no such job")
        if role is head_role(job.kind) and "ticket" in message:
            if not same(ticket_digest(message.raw("ticket", size=SECRET_BYTES)), job.ticket):
                raise StrangerError("the ticket is not for this job")
            if job.driver and not same(job.driver, keys.digest):
                raise ConflictError(
                    "the ticket was used by another driver", hint="a ticket admits one driver; submit again"
                )
            return job
        if role in MEMBER_ROLES and "admission" in message:
            expected = admission_mac(
                self._desk.keys.admission_secret,
                job_digest=parse_text(job.digest),
                role=role.value,
                key_digest=keys.digest,
            )
            if same(message.raw("admission", size=len(expected)), expected):
                return job
        raise StrangerError("a driver or endpoint comes with its ticket, a worker or egress with its admission")

    async def _bind_driver(self, job: Job, key: bytes) -> None:
        """Bind the ticket to the first driver key that attested with it."""
        await self._desk.write(
            EntryKind.ADMISSION,
            {"job": job.id, "role": head_role(job.kind).value, "admitted": True, "key": to_text(key)},
            changes=[job.bound_to(key).to_change()],
        )

    async def _rule_anew(
        self, session: Session, job: Job, cases: tuple[InputCase, ...], *, wanted: frozenset[str], now: datetime
    ) -> tuple[Earlier, Term]:
        """Return what the last of this role and job was released, if it is this session's too, or else rule anew."""
        place = (job.id, session.role, wanted, session.result.collateral_digest)
        earlier = self._released.get(place)
        term = None if earlier is None else earlier.standing.rule_again(job, cases, tee=session.tee, now=now)
        if earlier is not None and term is not None:
            return earlier, term
        ruling = await self._rule(session, job, "release of keys")
        parcel = self._parcels.make_up(session.role, job, ruling.grants, wanted)
        earlier = Earlier(
            standing=Standing(job=job, cases=cases, tee=session.tee, grants=ruling.grants),
            parcel=parcel,
            form=self._parcels.form(parcel, facts=self._about(session, job), time=now),
        )
        if session.role is not Role.EGRESS:
            keep(self._released, place, earlier)
        return earlier, ruling.term

    async def _rule(self, session: Session, job: Job, asked: str) -> Ruling:
        ruling = rule(job, self._desk.cases(job), tee=session.tee, now=self._desk.clock())
        if isinstance(ruling, Refusal):
            await self._desk.refuse(asked, facts=self._about(session, job), reasons=ruling.reasons)
        return ruling

    def _repin(self, job: Job) -> tuple[Job, tuple[JobInput, ...]]:
        """Return ``job`` as it is to be released, and the inputs that count as newly opened.

        Only an endpoint follows its owners to newer versions; any other job reads what it was submitted for.
        """
        if job.kind != "serve":
            return job, (() if job.opened else job.inputs)
        newest = self._desk.state.newest
        inputs = tuple(
            replace(one, version=newest[one.dataset].version) if one.dataset in newest else one for one in job.inputs
        )
        newer = tuple(one for one, before in zip(inputs, job.inputs, strict=True) if one != before or not job.opened)
        return replace(job, inputs=inputs, opened=job.opened and not newer), newer

    def _job(self, session: Session) -> Job:
        return self._desk.state.jobs[session.job]

    def _egress_job(self, session: Session) -> Job:
        if session.role is not Role.EGRESS:
            raise StrangerError("only egress deposits outputs")
        return self._job(session)

    async def _write_output(self, session: Session, job: Job, output: Output) -> int:
        if output.id in self._desk.state.outputs:
            raise ConflictError(f"output {output.id} was deposited before")
        written = await self._desk.write(
            EntryKind.OUTPUT,
            {
                **self._about(session, job),
                "output": output.id,
                "digest": output.digest,
                "recipients": [str(party) for party in job.outputs.get(output.name, ())],
                "card": str(output.details.get("card", "")),
                "kept": str(output.details.get("kept", "")),
                "lineage": [
                    {
                        "dataset": one.dataset,
                        "version": one.version,
                        "policy": policy_digest(self._desk.state.policies[one.dataset]),
                    }
                    for one in job.inputs
                    if one.dataset in self._desk.state.policies
                ],
            },
            reasons=output.reasons,
            changes=[output.to_change()],
        )
        return written.index

    def _about(self, session: Session, job: Job) -> dict[str, Any]:
        """Return what a ledger entry says of a session."""
        result: AttestationResult = session.result
        return {
            "job": job.id,
            "analyst": str(job.analyst),
            "purpose": job.purpose,
            "program": job.program,
            "role": session.role.value,
            "key": session.key_text,
            "measurement": result.measurement,
            "tee": result.tee,
            "tcb_status": result.tcb_status,
            "tier": str(result.tier),
            "simulated": result.simulated,
            "collateral": result.collateral_digest,
        }


def _read_wanted(job: Job, message: Message) -> frozenset[str]:
    """Return the datasets that a release asks for; raise MalformedRequestError unless they are inputs of ``job``."""
    wanted = frozenset(message.texts("datasets"))
    unknown = sorted(wanted - {one.dataset for one in job.inputs})
    if unknown or not wanted:
        raise MalformedRequestError(f"the job has no input {', '.join(unknown) or 'in an empty list'}")
    return wanted


def _first_use(job: Job, newer: Sequence[JobInput], uses: Mapping[str, int]) -> list[Change]:
    """Return what changes when keys are released to ``job``: at its first grant, one use of each ``newer`` input."""
    if job.opened:
        return []
    counted = [text_change(USES, one.key, str(uses.get(one.key, 0) + 1)) for one in newer]
    return [*counted, replace(job, opened=True).to_change()]


def _small(details: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(details)) > MAX_DETAILS:
        raise MalformedRequestError(f"an output's details have at most {MAX_DETAILS} bytes")
    return details


def _sealed_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_SEALED:
        raise MalformedRequestError("a sealed key is base64")
    decode64(value, name="a sealed key")
    return value
