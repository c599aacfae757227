"""Talk to a broker that was attested first: owners enrol, analysts submit, workloads attest, anybody checks the ledger.

There is no way to a broker except through :meth:`BrokerClient.attest`. Every answer's checkpoint is held against what
was remembered, so a broker whose ledger was rolled back is refused at the first word.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from strongroom.attestation.appraisal import AttestationResult, Verifier
from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.failures import MeasurementError
from strongroom.attestation.roles import Role
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.answered import PendingOutput, Receipt, ResultKey, Ticket
from strongroom.broker.calls import BrokerRefusedError, Line, SessionLostError, parse_proof
from strongroom.broker.names import NONCE_BYTES
from strongroom.broker.orders import Order, sign_order
from strongroom.broker.public_keys import PublicKeys, encode_spki
from strongroom.broker.requests import decode64, encode64
from strongroom.broker.seals import enrol_info, kept_info
from strongroom.broker.workload_session import Admission, Release, SubmittedOutput, WorkloadSession
from strongroom.digests import bytes_digest
from strongroom.envelope.hpke import seal
from strongroom.envelope.keys import DataKey, reveal
from strongroom.envelope.manifest import verify_manifest
from strongroom.errors import EvidenceError, LedgerError
from strongroom.ledger.checkpoint import Checkpoint, LedgerKey
from strongroom.ledger.entry import Entry
from strongroom.ledger.export import write_export
from strongroom.ledger.memory import CheckpointMemory
from strongroom.ledger.proofs import leaf_hash, verify_inclusion
from strongroom.policy.document import policy_digest, verify_policy
from strongroom.statements import SigningKey, Statement, VerifyKey


class BrokerClient:
    """A client of one attested broker; safe to share between threads."""

    def __init__(
        self, line: Line, *, result: AttestationResult, public: PublicKeys, memory: CheckpointMemory, ledger: LedgerKey
    ) -> None:
        self._line = line
        self._public = public
        self.result = result
        self.memory = memory
        self.ledger_key = ledger

    @classmethod
    def attest(
        cls,
        url: str,
        *,
        verifier: Verifier,
        expected_measurements: Collection[str],
        memory: CheckpointMemory,
        now: datetime | None = None,
    ) -> Self:
        """Return a client after the broker at ``url`` proved what it is and that it holds the key of this connection.

        Raise EvidenceError if it is not genuine or not one of ``expected_measurements``, RolledBackError if its ledger
        is not the continuation of what is remembered, TransportError if it cannot be reached.
        """
        line = Line.open(url)
        try:
            nonce = os.urandom(NONCE_BYTES)
            answer = line.call("/v1/evidence", {"nonce": encode64(nonce)}, again=True)
            certificate = x509.load_der_x509_certificate(line.certificate_der)
            try:
                ledger = LedgerKey.decode(str(answer["ledger_key"]))
                public = PublicKeys(
                    tls_spki=encode_spki(certificate.public_key()),
                    kem=decode64(str(answer["kem"]), name="the broker's KEM key"),
                    ledger=ledger.key.raw,
                )
                evidence = Evidence.from_json(answer["evidence"])
            except (KeyError, TypeError, ValueError) as error:
                raise EvidenceError("the broker presented something that is not evidence", step="format") from error
            expected = report_data(
                role=Role.BROKER, nonce=nonce, exporter=b"", own_key=public.digest, peer_key=b"", job_digest=b""
            )
            result = verifier.appraise(evidence, report_data=expected, now=now or datetime.now(UTC))
            expect_measurement(result, expected_measurements)
            line.remember(memory, ledger)
            client = cls(line, result=result, public=public, memory=memory, ledger=ledger)
            client.checkpoint()
        except BaseException:
            line.close()
            raise
        return client

    @property
    def url(self) -> str:
        """Return the broker's address."""
        return self._line.url

    def close(self) -> None:
        """Close every connection."""
        self._line.close()

    # The door for everybody.

    def checkpoint(self) -> Checkpoint:
        """Return the newest checkpoint, verified against the ledger's key and what is remembered."""
        answer = self._line.call("/v1/checkpoint", {}, again=True)
        return self._line.check_checkpoint(str(answer.get("checkpoint"))).checkpoint

    def entries(self, start: int, end: int) -> list[Entry]:
        """Return the entries from ``start`` up to ``end``, parsed; :meth:`verified_entry` also proves one."""
        return [Entry.decode(encoded) for encoded in self.raw_entries(start, end)]

    def raw_entries(self, start: int, end: int) -> list[bytes]:
        """Return the entries' bytes as they are hashed."""
        found: list[bytes] = []
        while len(found) < end - start:
            answer = self._line.call("/v1/entries", {"start": start + len(found), "end": end}, again=True)
            part = answer.get("entries")
            if not isinstance(part, list) or not part:
                raise LedgerError("the broker sent fewer entries than its ledger has")
            found.extend(decode64(str(entry), name="an entry") for entry in part)
        return found[: end - start]

    def inclusion(self, index: int, *, size: int) -> list[bytes]:
        """Return the proof that entry ``index`` is in the ledger of ``size``."""
        return parse_proof(self._line.call("/v1/inclusion", {"index": index, "size": size}, again=True))

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the ledger of ``second`` continues that of ``first``."""
        return parse_proof(self._line.call("/v1/consistency", {"first": first, "second": second}, again=True))

    def verified_entry(self, index: int) -> Entry:
        """Return entry ``index`` after proving that it is in the ledger under the newest checkpoint."""
        checkpoint = self.checkpoint()
        (encoded,) = self.raw_entries(index, index + 1)
        proof = self.inclusion(index, size=checkpoint.size)
        verify_inclusion(leaf_hash(encoded), index=index, size=checkpoint.size, root=checkpoint.root, proof=proof)
        return Entry.decode(encoded)

    def export(self, directory: Path) -> Checkpoint:
        """Write the whole ledger as tiles into the new ``directory`` and return the checkpoint it stands under."""
        answer = self._line.call("/v1/checkpoint", {}, again=True)
        signed = self._line.check_checkpoint(str(answer.get("checkpoint")))
        entries = self.raw_entries(0, signed.checkpoint.size)
        write_export(directory, entries=entries, signed=signed, ledger=self.ledger_key)
        return signed.checkpoint

    # The door for members.

    def enrol_member(self, identity: Statement) -> Receipt:
        """Enrol a member by its signed identity."""
        return _receipt(self._line.call("/v1/members", {"identity": identity.encode()}, again=True))

    def register_dataset(self, manifest: Statement, dek: DataKey, policy: Statement, key: SigningKey) -> Receipt:
        """Register a dataset version: its manifest, its policy, and its key, which leaves here only sealed."""
        opened = verify_manifest(manifest, owner=key.party)
        info = enrol_info(dataset=opened.dataset, version=opened.version, manifest_digest=manifest.digest)
        sealed = seal(self._public.kem, reveal(dek), info=info)
        fields = {
            "manifest": opened.digest,
            "policy": policy_digest(verify_policy(policy)),
            "sealed_key": bytes_digest(sealed),
        }
        more = {"manifest": manifest.encode(), "policy": policy.encode(), "sealed_key": encode64(sealed)}
        return _receipt(self._order("/v1/datasets", Order.REGISTER, fields, key, more=more))

    def adopt_output(
        self, output_id: str, *, drafted: Statement, manifest: Statement, policy: Statement, key: SigningKey
    ) -> Receipt:
        """Make the files of an output that stay inside a dataset of their owner, whose key the broker holds already.

        ``drafted`` is the manifest that egress signed, ``manifest`` the owner's over the same files.
        """
        fields = {
            "output": output_id,
            "manifest": verify_manifest(manifest, owner=key.party).digest,
            "policy": policy_digest(verify_policy(policy)),
        }
        more = {"drafted": drafted.encode(), "manifest": manifest.encode(), "policy": policy.encode()}
        return _receipt(self._order("/v1/adoptions", Order.ADOPT, fields, key, more=more))

    def seal_kept_key(self, dek: DataKey, *, job_digest: bytes, output: str, manifest_digest: str) -> bytes:
        """Return the key of files that stay inside, sealed to this broker alone."""
        info = kept_info(job_digest=job_digest, output=output, manifest_digest=manifest_digest)
        return seal(self._public.kem, reveal(dek), info=info)

    def update_policy(self, policy: Statement, key: SigningKey) -> Receipt:
        """Replace a dataset's policy by a newer version; ``key`` is its owner's."""
        if VerifyKey(policy.signer).fingerprint != key.party.fingerprint:
            raise EvidenceError(f"the policy is not signed by {key.party}", step="signer")
        fields = {"policy": policy_digest(verify_policy(policy))}
        return _receipt(self._order("/v1/policies", Order.POLICY, fields, key, more={"policy": policy.encode()}))

    def revoke(self, dataset: str, reason: str, key: SigningKey, *, version: int = 0) -> Receipt:
        """Revoke one version of a dataset, or (0) every version registered now; it cannot be undone."""
        fields = {"dataset": dataset, "version": version, "reason": reason}
        return _receipt(self._order("/v1/revocations", Order.REVOKE, fields, key))

    def approve(self, output_id: str, digest: str, key: SigningKey) -> Receipt:
        """Approve exactly the output with this digest."""
        return _receipt(self._order("/v1/approvals", Order.APPROVE, {"output": output_id, "digest": digest}, key))

    def pending(self, key: SigningKey) -> list[PendingOutput]:
        """Return the outputs that wait for this party's approval."""
        found = self._order("/v1/pending", Order.PENDING, {}, key)["pending"]
        return [
            PendingOutput(
                output_id=one["output"],
                digest=one["digest"],
                location=one["location"],
                details=one["details"],
                job_id=one["job"],
                analyst=one["analyst"],
                purpose=one["purpose"],
                program=one["program"],
                recipients=tuple(one["recipients"]),
                created=one["created"],
            )
            for one in found
        ]

    # The door for analysts.

    def submit_job(self, job: Statement) -> Ticket:
        """Submit a signed job; raise RefusedError with every reason of every owner if nothing could ever allow it."""
        answer = self._line.call("/v1/jobs", {"job": job.encode()}, again=True)
        return Ticket.decode({"job": answer["job"], "secret": answer["ticket"], "index": answer["index"]})

    def fetch_result(self, job: str, output: str, key: SigningKey) -> ResultKey:
        """Return the key of one output of ``job`` (its id or digest), sealed to the party of ``key``.

        Raise RefusedError while approvals are missing, after a revocation, or once a policy ended.
        """
        answer = self._order("/v1/results", Order.FETCH, {"job": job, "output": output}, key)
        details = answer["details"]
        return ResultKey(
            output_id=answer["output"],
            manifest_digest=answer["digest"],
            signer=VerifyKey(decode64(str(details.get("signer", "")), name="the result's signer")),
            location=answer["location"],
            details=details,
            sealed=decode64(answer["sealed"], name="the sealed key"),
            index=answer["index"],
        )

    # The door for workloads.

    def nonce(self) -> bytes:
        """Return a nonce that this broker accepts once within a minute."""
        return decode64(str(self._line.call("/v1/nonce", {}, again=True)["nonce"]), name="a nonce", size=NONCE_BYTES)

    def attest_workload(
        self,
        tee: Tee,
        *,
        keys: WorkloadKeys,
        role: Role,
        job_digest: bytes,
        ticket: Ticket | Mapping[str, Any] | None = None,
        admission: str | None = None,
    ) -> WorkloadSession:
        """Return a session for the workload in ``tee``: a driver comes with its ticket, a member with its admission.

        The session attests again by itself when the broker has forgotten it.
        """
        session = self._introduce(tee, keys=keys, role=role, job_digest=job_digest, ticket=ticket, admission=admission)
        session.attest()
        return session

    def attest_and_release(
        self,
        tee: Tee,
        *,
        keys: WorkloadKeys,
        role: Role,
        job_digest: bytes,
        datasets: Sequence[str],
        ticket: Ticket | Mapping[str, Any] | None = None,
        admission: str | None = None,
    ) -> tuple[WorkloadSession, Release]:
        """Return a session as :meth:`attest_workload` does, and the keys of ``datasets``, with one request less.

        Raise RefusedError with every reason of every owner of any input; there is no session then.
        """
        session = self._introduce(tee, keys=keys, role=role, job_digest=job_digest, ticket=ticket, admission=admission)
        return session, session.attest_and_release(datasets)

    def _introduce(
        self,
        tee: Tee,
        *,
        keys: WorkloadKeys,
        role: Role,
        job_digest: bytes,
        ticket: Ticket | Mapping[str, Any] | None,
        admission: str | None,
    ) -> WorkloadSession:
        introduction = {}
        if ticket is not None:
            held = ticket if isinstance(ticket, Ticket) else Ticket.decode(ticket)
            introduction["ticket"] = encode64(held.secret)
        if admission is not None:
            introduction["admission"] = admission
        return WorkloadSession(
            self._line,
            tee=tee,
            keys=keys,
            role=role,
            job_digest=job_digest,
            introduction=introduction,
            broker_key=key_bundle_digest(self._public.tls_spki),
            nonce=self.nonce,
        )

    # The door for a standby.

    @property
    def tls_spki(self) -> bytes:
        """Return the key of this connection, which the broker's evidence vouches for."""
        return self._public.tls_spki

    def ask_for_handover(self, *, nonce: bytes, kem: bytes, evidence: Evidence) -> bytes:
        """Return the store's key as the broker seals it to ``kem`` of a standby; raise RefusedError if it does not."""
        body = {"nonce": encode64(nonce), "kem": encode64(kem), "evidence": evidence.to_json()}
        return decode64(str(self._line.call("/v1/handover", body, again=False)["sealed"]), name="the store's key")

    def attest_with_recorded_evidence(
        self, evidence: Evidence, *, role: Role, job_digest: str, ticket: Ticket
    ) -> dict[str, Any]:
        """Present evidence that was made for another occasion, as somebody who recorded it would; always refused."""
        keys = WorkloadKeys.generate()
        body = {
            "role": role.value,
            "nonce": encode64(self.nonce()),
            "evidence": evidence.to_json(),
            "spki": encode64(keys.spki),
            "kem": encode64(keys.kem.public),
            "job": job_digest,
            "ticket": encode64(ticket.secret),
        }
        return self._line.call("/v1/attest", body, again=False)

    def _order(
        self,
        path: str,
        kind: Order,
        fields: Mapping[str, Any],
        key: SigningKey,
        *,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        order = sign_order(kind, fields, ledger=self.ledger_key.origin, nonce=self.nonce(), key=key)
        return self._line.call(path, {"order": order.encode(), **(more or {})}, again=False)


def expect_measurement(result: AttestationResult, measurements: Collection[str]) -> None:
    """Raise MeasurementError unless the broker measures as one of ``measurements``; none expects nothing."""
    if result.measurement not in measurements:
        raise MeasurementError(
            f"the broker measures as {result.measurement}, "
            f"expected {', '.join(sorted(measurements)) or 'none, for none is named'}",
            hint="name the published measurement of the broker, as `strongroom measure` prints it",
        )


def _receipt(answer: Mapping[str, Any]) -> Receipt:
    index = answer.get("index")
    return Receipt(index=index if isinstance(index, int) else None)


__all__ = [
    "Admission",
    "BrokerClient",
    "BrokerRefusedError",
    "PendingOutput",
    "Receipt",
    "Release",
    "ResultKey",
    "SessionLostError",
    "SubmittedOutput",
    "Ticket",
    "WorkloadSession",
]
