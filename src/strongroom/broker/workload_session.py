"""Hold a workload's session with the broker: attest, prove every request, open what is sealed (spec/4-release.md §7).

The session's secret and every released key exist only in this process. A broker that restarted is simply attested to
again, with the same keys and the same ticket or admission.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2

from strongroom.attestation.appraisal import AttestationResult
from strongroom.attestation.binding import report_data
from strongroom.attestation.roles import Role
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import PublicKeys, WorkloadKeys
from strongroom.broker.calls import Line, SessionLostError
from strongroom.broker.names import SESSION_HEADER
from strongroom.broker.requests import decode64, encode64
from strongroom.broker.seals import SECRET_BYTES, SESSION_BYTES, ReleaseSeal, release_terms, request_mac, session_info
from strongroom.broker.turns import Turns
from strongroom.digests import same, to_text
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.errors import EnvelopeError, TransportError
from strongroom.policy.fusion import FusedPolicy
from strongroom.statements import PartyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What the broker released: keys by dataset, the job's output key, the fused policy and the lease.

    ``contents`` maps each dataset to the digest of the data that its owner registered (``Manifest.content``).
    ``recipients`` (fingerprint to KEM public key) is there for egress alone, which in turn gets no key of an input.
    """

    datasets: Mapping[str, DatasetKeys]
    contents: Mapping[str, str]
    output: DataKey
    policy: FusedPolicy
    recipients: Mapping[str, bytes]
    lease_seconds: float
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A member's letter of introduction, or every reason why there is none; and its place in the ledger."""

    letter: str
    reasons: tuple[str, ...]
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedWindow:
    """How many answers each caller (by fingerprint) may be given, for how long, and where the ledger says so.

    ``retry_after`` says for those who got fewer than asked for after how many seconds there are more; ``policy`` is
    the fused policy as of this window, none if none was opened.
    """

    allowed: Mapping[str, int]
    retry_after: Mapping[str, int]
    seconds: float
    index: int
    policy: FusedPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedOutput:
    """An output in the broker's hands: ``state`` is released, pending (approvals are missing) or refused."""

    output_id: str
    state: str
    index: int | None


class WorkloadSession:
    """One workload's session; safe to share between threads, which take turns."""

    def __init__(
        self,
        line: Line,
        *,
        tee: Tee,
        keys: WorkloadKeys,
        role: Role,
        job_digest: bytes,
        introduction: Mapping[str, str],
        broker_key: bytes,
        nonce: Callable[[], bytes],
    ) -> None:
        self._line = line
        self._tee = tee
        self._keys = keys
        self._role = role
        self._job_digest = job_digest
        self._introduction = dict(introduction)
        self._broker_key = broker_key
        self._nonce = nonce
        self._turns = Turns()
        self._id = b""
        self._secret = b""
        self._counter = 0

    def attest(self) -> None:
        """Prove to the broker, on a fresh nonce, what this workload is, and begin a session."""
        self._attest({})

    def attest_and_release(self, datasets: Sequence[str]) -> Release:
        """Begin a session and return the keys of ``datasets``, in one request; raise as :meth:`release` does."""
        with self._turns.take():
            answer = self._attest({"datasets": list(datasets)})["release"]
            self._counter = 1
            return self._open(answer)

    def _attest(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a session with the evidence and ``more``; return the answer."""
        with self._turns.take():
            nonce = self._nonce()
            bound = report_data(
                role=self._role,
                nonce=nonce,
                exporter=b"",
                own_key=self._keys.digest,
                peer_key=self._broker_key,
                job_digest=self._job_digest,
            )
            body = {
                "role": self._role.value,
                "nonce": encode64(nonce),
                "evidence": self._tee.evidence(bound).to_json(),
                "spki": encode64(self._keys.spki),
                "kem": encode64(self._keys.kem.public),
                "job": to_text(self._job_digest),
                **self._introduction,
                **more,
            }
            answer = self._line.call("/v1/attest", body, again=False)
            session = decode64(str(answer.get("session")), name="the session", size=SESSION_BYTES)
            info = session_info(session=session, nonce=nonce, job_digest=self._job_digest)
            secret = self._keys.kem.open(decode64(str(answer.get("secret")), name="the secret"), info=info)
            if len(secret) != SECRET_BYTES:
                raise TransportError("the broker sent a session without a secret")
            self._id, self._secret, self._counter = session, secret, 0
            return answer

    def release(self, datasets: Sequence[str]) -> Release:
        """Return the keys of ``datasets``; raise RefusedError with every reason of every owner of any input."""
        with self._turns.take():
            return self._open(self._call("/v1/release", {"datasets": list(datasets)}))

    def _open(self, answer: Mapping[str, Any]) -> Release:
        """Return what the broker's answer to the session's newest request releases."""
        granted = [(str(name), int(version), str(digest)) for name, version, digest in answer["datasets"]]
        terms = release_terms(job_digest=self._job_digest, datasets=granted, policy_digest=str(answer["policy_digest"]))
        sealed = decode64(str(answer["sealed"]), name="the sealed keys")
        plain = ReleaseSeal(self._secret, session=self._id).open(sealed, counter=self._counter, terms=terms)
        bundles, output, encoded, recipients, contents = cbor2.loads(plain)
        policy = FusedPolicy.decode(encoded)
        if not same(policy.digest.encode(), str(answer["policy_digest"]).encode()):
            raise EnvelopeError("the released policy is not the one that the keys are bound to")
        keys = [DatasetKeys.decode(bundle) for bundle in bundles]
        versions = {(one.dataset, one.version) for one in keys}
        if not versions <= {(name, version) for name, version, _ in granted}:
            raise EnvelopeError("the broker released keys of something else than it says")
        return Release(
            datasets={one.dataset: one for one in keys},
            contents=contents,
            output=DataKey(output),
            policy=policy,
            recipients=recipients,
            lease_seconds=float(answer["lease"]),
            index=int(answer["index"]),
        )

    def renew(self) -> float:
        """Return for how many seconds the keys may be held from now; raise RefusedError if they no longer may."""
        return float(self._call("/v1/renew", {}, urgent=True)["lease"])

    def renew_and_look(self) -> tuple[float, tuple[str, ...]]:
        """Return the lease as :meth:`renew` does, and the inputs of which the owner registered a newer version."""
        answer = self._call("/v1/renew", {}, urgent=True)
        return float(answer["lease"]), tuple(str(name) for name in answer["newer"])

    def account(
        self, window: int, *, closes: Mapping[str, Any] | None, opens: Mapping[str, int] | None
    ) -> OpenedWindow:
        """Have what an endpoint answered written down and the next window opened (spec/8-serving.md §5)."""
        answer = self._call("/v1/answers", {"window": window, "closes": closes, "opens": opens})
        return OpenedWindow(
            allowed={str(caller): int(count) for caller, count in answer["credits"].items()},
            retry_after={str(caller): int(seconds) for caller, seconds in answer["retry"].items()},
            seconds=float(answer["seconds"]),
            index=int(answer["index"]),
            policy=None if opens is None else FusedPolicy.decode(decode64(answer["policy"], name="a fused policy")),
        )

    def admit(
        self, member: PublicKeys, *, role: Role, result: AttestationResult, reasons: Sequence[str] = ()
    ) -> Admission:
        """Ask every owner's policy about a member that this driver appraised, and return the ruling, written down
        first.

        ``reasons`` are the driver's own objections; with any, the member is refused.
        """
        answer = self._call(
            "/v1/admissions",
            {
                "role": role.value,
                "key": encode64(member.digest),
                "tee": result.tee,
                "measurement": result.measurement,
                "tier": str(result.tier),
                "simulated": result.simulated,
                "tcb_status": result.tcb_status,
                "advisories": list(result.advisories),
                "reasons": list(reasons),
            },
        )
        return Admission(
            letter=str(answer["admission"]),
            reasons=tuple(str(reason) for reason in answer["reasons"]),
            index=int(answer["index"]),
        )

    def submit_output(
        self,
        name: str,
        *,
        manifest_digest: str,
        signer: bytes,
        rows: int,
        columns: Sequence[str],
        sealed: Mapping[str, bytes],
        location: str = "",
        card: str = "",
        kept: str = "",
    ) -> SubmittedOutput:
        """Deposit an output that egress passed; ``sealed`` maps each recipient (party id) to the key sealed to it.

        ``card`` is the digest of the model card in an output of files. ``kept`` is the dataset, ``name@version``, that
        files which stay inside are to become; their key is sealed to the broker in their owner's name.
        """
        answer = self._call(
            "/v1/outputs",
            {
                "output": name,
                "digest": manifest_digest,
                "location": location,
                "details": {
                    "signer": encode64(signer),
                    "rows": rows,
                    "columns": list(columns),
                    "card": card,
                    "kept": kept,
                },
                "sealed": {PartyId.parse(party).fingerprint: encode64(key) for party, key in sealed.items()},
            },
        )
        return SubmittedOutput(output_id=answer["output"], state=answer["state"], index=answer["index"])

    def refuse_output(self, name: str, *, reasons: Sequence[str]) -> SubmittedOutput:
        """Write into the ledger that egress refused an output, with every reason."""
        answer = self._call("/v1/withheld", {"output": name, "reasons": list(reasons)})
        return SubmittedOutput(output_id=answer["output"], state=answer["state"], index=answer["index"])

    def _call(self, path: str, body: Mapping[str, Any], *, urgent: bool = False) -> dict[str, Any]:
        """Send a proven request; a session that the broker forgot is begun again, once."""
        encoded = json.dumps(body).encode()
        with self._turns.take(urgent=urgent):
            try:
                return self._send(path, encoded)
            except SessionLostError:
                self.attest()
                return self._send(path, encoded)

    def _send(self, path: str, body: bytes) -> dict[str, Any]:
        self._counter += 1
        proof = request_mac(self._secret, path=path, session=self._id, counter=self._counter, body=body)
        header = f"{encode64(self._id)}.{self._counter}.{encode64(proof)}"
        return self._line.call(path, body, headers={SESSION_HEADER: header}, again=False)

    def __repr__(self) -> str:
        return f"WorkloadSession(role={self._role.value!r})"
