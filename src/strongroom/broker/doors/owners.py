"""The door for members: enrol, register datasets, change policies, revoke, approve (spec/4-release.md §5).

Whatever is asked here is signed by the party it concerns, and an owner's word counts for its own datasets only.
"""

from __future__ import annotations

from typing import Any

from strongroom.broker.desk import ConflictError, Desk
from strongroom.broker.orders import MAX_REASON, Order
from strongroom.broker.records import MEMBER, POLICY, REVOCATION, Dataset, Job, Output, text_change, time_text
from strongroom.broker.release import missing_approvals, rule
from strongroom.broker.requests import MalformedRequestError, Message, decode64, encode64
from strongroom.broker.seals import enrol_info, kept_info
from strongroom.broker.state import approval_change
from strongroom.catalog.identity import Identity, verify_identity
from strongroom.digests import bytes_digest, parse_text, same
from strongroom.envelope.keys import DataKey
from strongroom.envelope.manifest import Manifest, verify_manifest
from strongroom.errors import RefusedError
from strongroom.ledger.entry import EntryKind
from strongroom.policy.document import DataUsePolicy, policy_digest, verify_policy
from strongroom.policy.evaluate import Refusal
from strongroom.policy.fusion import fuse
from strongroom.statements import Statement, VerifyKey

MAX_MEMBERS = 100_000


class OwnersDoor:
    """Serves members."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def enrol(self, body: bytes) -> dict[str, Any]:
        """Enrol a member by its self-signed identity; a newer identity of the same key replaces the older."""
        statement = Message.parse(body, "identity").statement("identity")
        identity = verify_identity(statement)
        known = self._desk.state.member(identity.party.fingerprint)
        if known is not None and known == identity:
            return {"member": str(identity.party), "index": None}
        if known is not None and identity.created <= known.created:
            raise ConflictError(
                f"{identity.party} is enrolled with an identity from {known.created:%FT%TZ}, this one is not newer"
            )
        if known is None and len(self._desk.state.members) >= MAX_MEMBERS:
            raise RefusedError("refused: enrolment", reasons=(f"the broker has {MAX_MEMBERS} members, its most",))
        written = await self._desk.write(
            EntryKind.MEMBER,
            {
                "party": str(identity.party),
                "role": identity.role,
                "signing_key": encode64(identity.signing_key.raw),
                "kem": bytes_digest(identity.kem_public),
            },
            changes=[text_change(MEMBER, identity.party.fingerprint, statement.encode())],
            administrative=True,
        )
        return {"member": str(identity.party), "index": written.index}

    async def register(self, body: bytes) -> dict[str, Any]:
        """Register a dataset version with its key and its policy, all by the same owner."""
        message = Message.parse(body, "order", "manifest", "policy", "sealed_key")
        order, owner = self._desk.take_order(message.statement("order"), kind=Order.REGISTER)
        manifest = verify_manifest(message.statement("manifest"), owner=owner.party)
        policy_statement = message.statement("policy")
        policy = verify_policy(policy_statement)
        sealed = message.raw("sealed_key")
        if (order.text("manifest"), order.text("policy"), order.text("sealed_key")) != (
            manifest.digest,
            policy_digest(policy),
            bytes_digest(sealed),
        ):
            raise MalformedRequestError("the order was signed for another manifest, policy or key")
        info = enrol_info(dataset=manifest.dataset, version=manifest.version, manifest_digest=manifest.statement.digest)
        dek = DataKey(self._desk.keys.kem.open(sealed, info=info))
        dataset = self._admit_dataset(manifest, owner, dek)
        self._admit_policy(policy, owner, dataset=dataset.name)
        written = await self._desk.write(
            EntryKind.DATASET,
            {
                "dataset": dataset.name,
                "version": dataset.version,
                "revision": dataset.revision,
                "owner": str(dataset.owner),
                "manifest": dataset.manifest_digest,
                "policy": policy_digest(policy),
                "policy_version": policy.version,
            },
            changes=[dataset.to_change(), text_change(POLICY, dataset.name, policy_statement.encode())],
            administrative=True,
        )
        return {"dataset": dataset.key, "index": written.index}

    async def adopt(self, body: bytes) -> dict[str, Any]:
        """Make the files of an output that stay inside a dataset of the owner whom every policy of the job names.

        Raises RecordedRefusalError while approvals are missing, and if a policy no longer permits it.
        """
        message = Message.parse(body, "order", "drafted", "manifest", "policy")
        order, owner = self._desk.take_order(message.statement("order"), kind=Order.ADOPT)
        output = self._desk.state.outputs.get(order.text("output"))
        job = None if output is None else self._desk.state.jobs[output.job]
        if output is None or job is None or owner.party not in job.outputs.get(output.name, ()):
            raise ConflictError(f"{owner.party} has no output {order.text('output')[:100]!r}")
        manifest = verify_manifest(message.statement("manifest"), owner=owner.party)
        drafted = self._drafted(message.statement("drafted"), output)
        policy_statement = message.statement("policy")
        policy = verify_policy(policy_statement)
        if (order.text("manifest"), order.text("policy")) != (manifest.digest, policy_digest(policy)):
            raise MalformedRequestError("the order was signed for another manifest or policy")
        if (manifest.files, manifest.kind, f"{manifest.dataset}@{manifest.version}") != (
            drafted.files,
            drafted.kind,
            output.details["kept"],
        ):
            raise ConflictError(f"the manifest is not over the files of {output.details['kept']}")
        facts = {"job": job.id, "output": output.id, "digest": output.digest, "party": str(owner.party)}
        if reasons := self._objections(output, job):
            await self._desk.refuse("adoption of an output", facts=facts, reasons=reasons)
        info = kept_info(job_digest=parse_text(job.digest), output=output.name, manifest_digest=output.digest)
        dek = DataKey(self._desk.keys.kem.open(decode64(output.sealed[owner.party.fingerprint], name="key"), info=info))
        dataset = self._admit_dataset(manifest, owner, dek)
        self._admit_policy(policy, owner, dataset=dataset.name)
        written = await self._desk.write(
            EntryKind.DATASET,
            {
                "dataset": dataset.name,
                "version": dataset.version,
                "revision": dataset.revision,
                "owner": str(dataset.owner),
                "manifest": dataset.manifest_digest,
                "policy": policy_digest(policy),
                "policy_version": policy.version,
                "output": output.id,
                "card": str(output.details.get("card", "")),
            },
            changes=[dataset.to_change(), text_change(POLICY, dataset.name, policy_statement.encode())],
            administrative=True,
        )
        return {"dataset": dataset.key, "index": written.index}

    async def update_policy(self, body: bytes) -> dict[str, Any]:
        """Replace a dataset's policy by a newer version of the same owner, who orders it of this broker and now.

        A policy alone names no broker: one signed for a trial must not be carried here by somebody who has a copy.
        """
        message = Message.parse(body, "order", "policy")
        order, owner = self._desk.take_order(message.statement("order"), kind=Order.POLICY)
        statement = message.statement("policy")
        policy = verify_policy(statement)
        if order.text("policy") != policy_digest(policy):
            raise MalformedRequestError("the order was signed for another policy")
        if policy.dataset not in self._desk.state.newest:
            raise ConflictError(f"no dataset {policy.dataset!r} of {policy.owner} is registered")
        self._admit_policy(policy, owner, dataset=policy.dataset)
        written = await self._desk.write(
            EntryKind.POLICY,
            {
                "dataset": policy.dataset,
                "owner": str(policy.owner),
                "policy": policy_digest(policy),
                "policy_version": policy.version,
                "replaces": self._desk.state.policy_digests.get(policy.dataset, ""),
            },
            changes=[text_change(POLICY, policy.dataset, statement.encode())],
            administrative=True,
        )
        return {"policy": policy_digest(policy), "index": written.index}

    async def revoke(self, body: bytes) -> dict[str, Any]:
        """Revoke one version of a dataset, or (version 0) every version there is; for good."""
        order, owner = self._desk.take_order(Message.parse(body, "order").statement("order"), kind=Order.REVOKE)
        name, version, reason = order.text("dataset"), order.number("version"), order.text("reason")
        if not reason.strip() or len(reason) > MAX_REASON:
            raise MalformedRequestError(f"a revocation gives a reason of 1 to {MAX_REASON} characters")
        targets = [
            dataset
            for dataset in self._desk.state.datasets.values()
            if dataset.name == name and version in {0, dataset.version} and dataset.owner == owner.party
        ]
        if not targets:
            own = sorted(key for key, dataset in self._desk.state.datasets.items() if dataset.owner == owner.party)
            raise ConflictError(
                f"{owner.party} has no dataset {name!r}" + (f", version {version}" if version else ""),
                hint=f"registered here: {', '.join(own)}" if own else "no dataset of this party is registered here",
            )
        written = await self._desk.write(
            EntryKind.REVOCATION,
            {
                "dataset": name,
                "versions": sorted(dataset.version for dataset in targets),
                "owner": str(owner.party),
                "reason": reason,
            },
            changes=[text_change(REVOCATION, dataset.key, reason) for dataset in targets],
            administrative=True,
        )
        return {"revoked": sorted(dataset.key for dataset in targets), "index": written.index}

    async def approve(self, body: bytes) -> dict[str, Any]:
        """Take one party's approval of one output, for exactly one digest."""
        order, party = self._desk.take_order(Message.parse(body, "order").statement("order"), kind=Order.APPROVE)
        output = self._desk.state.outputs.get(order.text("output"))
        if output is None or not self._is_approver(party, output.job):
            raise ConflictError(f"{party.party} is not asked to approve output {order.text('output')[:100]!r}")
        if not same(output.digest.encode(), order.text("digest").encode()):
            raise ConflictError(f"output {output.id} has digest {output.digest}, the approval is for another")
        written = await self._desk.write(
            EntryKind.APPROVAL,
            {"output": output.id, "digest": output.digest, "party": str(party.party)},
            changes=[approval_change(output=output.id, party=party.party, digest=output.digest)],
            administrative=True,
        )
        return {"output": output.id, "index": written.index}

    async def pending(self, body: bytes) -> dict[str, Any]:
        """Return the outputs that wait for this party's approval."""
        _, party = self._desk.take_order(Message.parse(body, "order").statement("order"), kind=Order.PENDING)
        found = []
        for output in self._desk.state.outputs.values():
            given = self._desk.state.approvals.get(output.id, {})
            if output.reasons or not self._is_approver(party, output.job):
                continue
            if given.get(party.party.fingerprint) == output.digest:
                continue
            job = self._desk.state.jobs[output.job]
            found.append(
                {
                    "output": output.id,
                    "digest": output.digest,
                    "location": output.location,
                    "details": dict(output.details),
                    "job": job.id,
                    "analyst": str(job.analyst),
                    "purpose": job.purpose,
                    "program": job.program,
                    "recipients": [str(one) for one in job.outputs[output.name]],
                    "created": time_text(output.created),
                }
            )
        return {"pending": found}

    def _drafted(self, statement: Statement, output: Output) -> Manifest:
        """Return the manifest that egress deposited ``output`` with; raise ConflictError for any other."""
        if not output.details.get("kept"):
            raise ConflictError(f"output {output.id} does not stay inside", hint="its recipients fetch it")
        signer = VerifyKey(decode64(str(output.details.get("signer", "")), name="the output's signer"))
        manifest = verify_manifest(statement, owner=signer)
        if not same(manifest.digest.encode(), output.digest.encode()):
            raise ConflictError(f"the files are not those of output {output.id}, which egress passed")
        return manifest

    def _objections(self, output: Output, job: Job) -> list[str]:
        """Return every reason why ``output`` may not become a dataset now."""
        reasons = list(output.reasons)
        ruling = rule(job, self._desk.cases(job), tee=None, now=self._desk.clock())
        if isinstance(ruling, Refusal):
            reasons.extend(ruling.reasons)
            return reasons
        fused = fuse([self._desk.state.policies[one.dataset] for one in job.inputs])
        reasons.extend(
            missing_approvals(output, fused, approved=self._desk.state.approvals.get(output.id, {})),
        )
        kept = job.outputs[output.name]
        named = None if fused.files is None else fused.files.owner
        if named is None or [named.fingerprint] != [party.fingerprint for party in kept]:
            reasons.append("the owners of the data no longer name one owner of what stays inside")
        return reasons

    def _admit_dataset(self, manifest: Manifest, owner: Identity, dek: DataKey) -> Dataset:
        if reasons := self._desk.keeping.objections(owner.party):
            raise RefusedError("refused: registration of a dataset", reasons=reasons)
        known = self._desk.state.newest.get(manifest.dataset)
        if known is not None and known.owner != owner.party:
            raise ConflictError(
                f"a dataset {manifest.dataset!r} of another owner is registered", hint="choose another name"
            )
        earlier = self._desk.state.datasets.get(f"{manifest.dataset}@{manifest.version}")
        if known is not None and earlier is None and manifest.version < known.version:
            raise ConflictError(
                f"version {known.version} of {manifest.dataset!r} is registered, {manifest.version} is older"
            )
        again = earlier is not None and earlier.manifest_digest == manifest.digest
        if earlier is not None and (earlier.dek != dek or (manifest.revision <= earlier.revision and not again)):
            raise ConflictError(
                f"{earlier.key} is registered with revision {earlier.revision}; "
                "only a later revision under the same key may follow",
                hint="register changed data as a new version",
            )
        return Dataset(
            name=manifest.dataset,
            version=manifest.version,
            revision=manifest.revision,
            owner=owner.party,
            kind=manifest.kind,
            columns=manifest.columns,
            manifest_digest=manifest.digest,
            content=manifest.content,
            dek=dek,
        )

    def _admit_policy(self, policy: DataUsePolicy, owner: Identity, *, dataset: str) -> None:
        state = self._desk.state
        registered = state.newest.get(dataset)
        if policy.dataset != dataset or policy.owner != owner.party:
            raise ConflictError(
                f"the policy is for {policy.dataset!r} of {policy.owner}, not {dataset!r} of {owner.party}"
            )
        if registered is not None and registered.owner != policy.owner:
            raise ConflictError(f"{dataset!r} belongs to another owner")
        current = state.policies.get(dataset)
        if current is None or state.policy_digests[dataset] == policy_digest(policy):
            return
        if policy.version <= current.version:
            raise ConflictError(
                f"policy version {current.version} of {dataset!r} is in force, {policy.version} is not newer",
                hint="raise the version in the policy and sign it again",
            )

    def _is_approver(self, party: Identity, job_id: str) -> bool:
        job = self._desk.state.jobs[job_id]
        policies = [self._desk.state.policies.get(one.dataset) for one in job.inputs]
        fused = fuse([policy for policy in policies if policy is not None])
        return any(party.party in rule.of for rule in fused.approvals)
