"""Take a job's outputs from the driver, check them, and encrypt what may leave (spec/4-release.md §8).

Entry point of the measured role ``egress``. An output that is refused is not encrypted to anyone; the refusal stands
in the ledger. Nothing decrypted is written anywhere.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from strongroom.attestation.roles import Role
from strongroom.broker.client import BrokerClient, WorkloadSession
from strongroom.broker.client import Release as Keys
from strongroom.digests import frame, parse_text
from strongroom.egress.files import CheckedFiles, check_files
from strongroom.egress.ruling import OutputFacts, Release, rule
from strongroom.envelope import hpke
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.envelope.table import open_table
from strongroom.errors import RefusedError, StrongroomError
from strongroom.jobs.spec import JobSpec
from strongroom.policy.evaluate import Refusal
from strongroom.statements import SigningKey, Statement, VerifyKey
from strongroom.workload.ending import describe_defect
from strongroom.workload.handover import MessageError, encode_failure
from strongroom.workload.keyring import output_dataset
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.parcel import accept, pack, pack_files
from strongroom.workload.worker import Member, member_arguments, run_member


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where the keys of outputs may go: to recipients, by their KEM keys, or to the broker."""

    recipients: Mapping[str, bytes]
    broker: BrokerClient
    spec: JobSpec


class Egress(Member):
    """One job's egress."""

    def __init__(self, *, driver: tuple[str, int], digest: str, directory: Path, name: str) -> None:
        super().__init__(role=Role.EGRESS, driver=driver, digest=digest, name=name)
        self._directory = directory

    def work(self) -> int:
        """Serve one job's outputs and return the exit code.

        It asks for its keys only when there is something to check, so that it rules by the policies of that moment.
        """
        admission, spec = self.join()
        broker = self.attest_broker(admission)
        session = broker.attest_workload(
            self.tee,
            keys=self.keys,
            role=Role.EGRESS,
            job_digest=parse_text(self.digest),
            admission=admission.admission,
        )
        said = self.hear()
        if said.get("type") == "stop":
            return 0
        try:
            ruled = self._pass_all(said, spec, session, broker)
            self.channel.send({"type": "ruled", "outputs": ruled})
        except Exception as error:  # noqa: BLE001  the driver has to hear of whatever went wrong
            trouble = error if isinstance(error, StrongroomError) else describe_defect(error)
            self.channel.send(encode_failure(trouble))
            return trouble.exit_code
        with contextlib.suppress(StrongroomError):  # the driver says stop, or leaves, once it has read the ruling
            self.hear()
        return 0

    def _pass_all(
        self, said: Mapping[str, Any], spec: JobSpec, session: WorkloadSession, broker: BrokerClient
    ) -> list[dict[str, Any]]:
        if said.get("type") != "outputs" or not isinstance(said.get("drafts"), list):
            raise MessageError("expected the job's outputs from the driver")
        drafts = [OutputDraft.decode(one) for one in said["drafts"]]
        release = session.release(sorted(spec.inputs))
        if release.policy.digest != said.get("policy"):
            reasons = ("the policies changed while the program ran, and it was held to the old ones",)
            for draft in drafts:
                session.refuse_output(draft.name, reasons=reasons)
            raise RefusedError("no output may leave", reasons=reasons, hint="submit the job again")
        passed = [self._check(draft, spec, session, release) for draft in drafts]  # all before any is encrypted
        return [
            self._encrypt(content, ruling, session, Doors(recipients=release.recipients, broker=broker, spec=spec))
            for content, ruling in passed
        ]

    def _check(
        self, draft: OutputDraft, spec: JobSpec, session: WorkloadSession, release: Keys
    ) -> tuple[pa.Table | CheckedFiles, Release]:
        """Decrypt one draft and return it with the permission to release it; raise RefusedError if there is none."""
        statement = Statement.decode(draft.manifest)
        drafted = accept(draft.manifest, signer=VerifyKey(statement.signer))  # the attested driver says who signed
        declared = spec.outputs.get(draft.name)
        facts = OutputFacts(
            name=draft.name,
            declared=declared is not None,
            recipients=declared.recipients if declared is not None else (),
            kind=declared.kind if declared is not None else drafted.kind,
        )
        content: pa.Table | CheckedFiles
        if drafted.kind == "files":
            content = check_files(draft, drafted, spec, release, job=self.digest)
            facts = replace(facts, bytes=content.bytes, problems=content.problems)
        else:
            keys = DatasetKeys.from_dek(
                release.output, dataset=output_dataset(draft.name), version=1, columns=drafted.columns
            )
            content = open_table(Path(draft.directory), keys, manifest=drafted).to_table()
            facts = replace(facts, rows=content.num_rows, columns=tuple(content.column_names))
        if (drafted.kind == "table") != (facts.kind == "table"):
            facts = replace(facts, problems=(*facts.problems, f"it is a {drafted.kind}, the job says {facts.kind}"))
        ruling = rule(facts, release.policy)
        if isinstance(ruling, Refusal):
            session.refuse_output(draft.name, reasons=ruling.reasons)
            raise RefusedError(f"output {draft.name!r} may not leave", reasons=ruling.reasons)
        return content, ruling

    def _encrypt(
        self,
        content: pa.Table | CheckedFiles,
        ruling: Release,
        session: WorkloadSession,
        doors: Doors,
    ) -> dict[str, Any]:
        files = content if isinstance(content, CheckedFiles) else None
        rows, columns = (
            (0, ()) if isinstance(content, CheckedFiles) else (content.num_rows, tuple(content.column_names))
        )
        signer = SigningKey.generate(name="egress")
        declared = doors.spec.outputs[ruling.name]
        kept = declared.kind == "kept-files"
        dataset = ruling.name if kept else f"result.{self.digest[-16:]}.{ruling.name}"
        dek = DataKey.generate()
        if files:
            keys = DatasetKeys.for_files(dek, dataset=dataset, version=declared.version if kept else 1)
        else:
            keys = DatasetKeys.from_dek(dek, dataset=dataset, version=1, columns=columns)
        bundle = keys.encode()
        # A name of its own, so that what an egress that was killed left behind is not in the way.
        directory = self._directory / "results" / f"{ruling.name}-{secrets.token_hex(4)}"
        directory.parent.mkdir(exist_ok=True)
        if files:
            manifest = pack_files(files.sources, directory, keys, signer=signer)
        else:
            manifest = pack(content, directory, keys, signer=signer)
        info = frame(b"strongroom/result/v1", self.digest.encode(), ruling.name.encode(), manifest.digest.encode())
        answer = session.submit_output(
            ruling.name,
            manifest_digest=manifest.digest,
            signer=signer.public.raw,
            rows=rows,
            columns=columns,
            card=files.card if files else "",
            kept=f"{dataset}@{declared.version}" if kept else "",
            sealed={
                str(recipient): doors.broker.seal_kept_key(
                    dek, job_digest=parse_text(self.digest), output=ruling.name, manifest_digest=manifest.digest
                )
                if kept
                else hpke.seal(doors.recipients[recipient.fingerprint], bundle, info=info)
                for recipient in ruling.recipients
            },
            location=str(directory),
        )
        return {
            "name": ruling.name,
            "kind": manifest.kind,
            "rows": rows,
            "columns": list(columns),
            "files": sorted(files.sources) if files else [],
            "directory": str(directory),
            "digest": manifest.digest,
            "state": answer.state,
            "id": answer.output_id,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run egress; nothing the host gives it is secret."""
    arguments = member_arguments("egress", argv)
    return run_member(
        lambda: Egress(
            driver=arguments.driver,
            digest=arguments.job_digest,
            directory=arguments.directory,
            name=arguments.name,
        )
    )
