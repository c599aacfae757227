"""The door for analysts: submit a job, fetch a result (spec/4-release.md §6, §9).

A job that no later evidence could save is refused here, with every reason of every owner; a result's key is handed out
only while every owner's policy, approvals and revocations still allow it.
"""

from __future__ import annotations

import os
from typing import Any

from strongroom.broker.desk import ConflictError, Desk, StrangerError
from strongroom.broker.orders import Order
from strongroom.broker.records import Job, JobInput
from strongroom.broker.release import missing_approvals, rule, unknown_recipients
from strongroom.broker.requests import Message, encode64
from strongroom.broker.seals import SECRET_BYTES, ticket_digest
from strongroom.digests import parse_text
from strongroom.envelope.keys import DataKey
from strongroom.jobs.spec import JobSpec, job_digest, verify_spec
from strongroom.ledger.entry import EntryKind
from strongroom.policy.evaluate import Refusal
from strongroom.policy.fusion import fuse
from strongroom.statements import Statement

JOB_ID_DIGITS = 32


def job_id(digest: str) -> str:
    """Return the job id that stands for a job digest: its first 32 hex digits."""
    return parse_text(digest).hex()[:JOB_ID_DIGITS]


class AnalystsDoor:
    """Serves analysts and recipients."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def submit(self, body: bytes) -> dict[str, Any]:
        """Take in a signed job and return the ticket for its driver, or every reason why not."""
        statement = Message.parse(body, "job").statement("job")
        spec = verify_spec(statement)
        member = self._desk.state.member(spec.analyst.fingerprint)
        if member is None:
            raise StrangerError(f"{spec.analyst} is not a member", hint="enrol this identity at the broker first")
        ticket = os.urandom(SECRET_BYTES)
        job = self._draw_up(spec, statement, ticket=ticket)
        known = self._desk.state.jobs.get(job.id)
        if known is not None and known.driver:
            raise ConflictError(
                "this job was submitted before and has a driver", hint="sign the job anew to run it again"
            )
        reasons = self._check_inputs(spec, job)
        if job.kind != "serve":  # Nothing is sealed to callers, who may never have met a broker.
            reasons.extend(unknown_recipients(job.recipients, self._desk.state.members))
        ruling = rule(job, self._desk.cases(job), tee=None, now=self._desk.clock())
        if isinstance(ruling, Refusal):
            reasons.extend(ruling.reasons)
        facts = {
            "job": job.id,
            "job_digest": job.digest,
            "analyst": str(job.analyst),
            "purpose": job.purpose,
            "kind": job.kind,
            "program": job.program,
            "inputs": [one.key for one in job.inputs],
            "outputs": sorted(job.outputs),
        }
        if reasons:
            await self._desk.refuse("submission of the job", facts=facts, reasons=reasons)
        written = await self._desk.write(EntryKind.JOB, facts, changes=[job.to_change()])
        return {"job": job.id, "ticket": encode64(ticket), "index": written.index}

    async def fetch(self, body: bytes) -> dict[str, Any]:
        """Return a result's key, sealed to the recipient that asks, or every reason why not."""
        order, party = self._desk.take_order(Message.parse(body, "order").statement("order"), kind=Order.FETCH)
        state = self._desk.state
        job = state.jobs.get(order.text("job")) or state.jobs.get(_as_id(order.text("job")))
        name = order.text("output")
        if job is None or party.party not in job.outputs.get(name, ()):
            raise StrangerError("no such output for this party", hint="only recipients named in the job may fetch it")
        output = state.outputs.get(f"{job.id}/{name}")
        if output is None:
            raise ConflictError(
                f"output {name!r} of job {job.id} has not reached egress yet", hint="wait for the job to end"
            )
        facts = {"job": job.id, "output": output.id, "digest": output.digest, "party": str(party.party)}
        reasons = list(output.reasons)
        ruling = rule(job, self._desk.cases(job), tee=None, now=self._desk.clock())
        if isinstance(ruling, Refusal):
            reasons.extend(ruling.reasons)
        policies = [state.policies[one.dataset] for one in job.inputs if one.dataset in state.policies]
        if policies:
            approved = state.approvals.get(output.id, {})
            reasons.extend(missing_approvals(output, fuse(policies), approved=approved))
        if output.details.get("kept"):
            reasons.append("the output stays inside: it can be used in jobs, and nobody may take it out")
        if not reasons and party.party.fingerprint not in output.sealed:
            reasons.append(f"egress sealed nothing to {party.party}")
        if reasons:
            await self._desk.refuse("a result's key", facts=facts, reasons=reasons)
        written = await self._desk.write(EntryKind.RESULT, facts)
        return {
            "output": output.id,
            "digest": output.digest,
            "location": output.location,
            "details": dict(output.details),
            "sealed": output.sealed[party.party.fingerprint],
            "index": written.index,
        }

    def _draw_up(self, spec: JobSpec, statement: Statement, *, ticket: bytes) -> Job:
        digest = job_digest(statement)
        newest = self._desk.state.newest
        known = self._desk.state.jobs.get(job_id(digest))
        inputs = []
        for name, given in spec.inputs.items():
            dataset = newest.get(name)
            mine = dataset is not None and dataset.owner == given.owner
            version = dataset.version if dataset is not None and mine else 0
            inputs.append(JobInput(dataset=name, version=version, columns=given.columns))
        return Job(
            id=job_id(digest),
            digest=digest,
            analyst=spec.analyst,
            purpose=spec.purpose,
            kind=spec.kind,
            program=spec.program_digest,
            inputs=tuple(inputs),
            outputs={name: output.recipients for name, output in spec.outputs.items()},
            ticket=ticket_digest(ticket),
            driver=b"",
            opened=False,
            output_key=known.output_key if known is not None else DataKey.generate(),
            submitted=self._desk.clock(),
        )

    def _check_inputs(self, spec: JobSpec, job: Job) -> list[str]:
        """Return what is wrong with the inputs beyond any policy: another owner, or columns that do not exist."""
        reasons = []
        for one in job.inputs:
            dataset = self._desk.state.newest.get(one.dataset)
            given = spec.inputs[one.dataset]
            if dataset is not None and dataset.owner != given.owner:
                reasons.append(f"{one.dataset}: the job names the owner {given.owner}, who has no dataset of this name")
            elif dataset is not None:
                missing = [column for column in one.columns if column != "*" and column not in dataset.columns]
                reasons.extend(f"{one.dataset}: there is no column {column!r}" for column in missing)
        return reasons


def _as_id(text: str) -> str:
    return job_id(text) if text.startswith("sha384:") else ""
