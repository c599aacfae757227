"""Take a job's outputs from the driver, check them, and encrypt what may leave (spec/4-release.md §8).

Entry point of the measured role ``egress``. An output that is refused is not encrypted to anyone; the refusal stands
in the ledger. Nothing decrypted is written anywhere.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from strongroom.attestation.roles import Role
from strongroom.broker.client import Release as Keys
from strongroom.broker.client import WorkloadSession
from strongroom.digests import frame, parse_text
from strongroom.egress.ruling import OutputFacts, Release, rule
from strongroom.envelope import hpke
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.envelope.table import open_table
from strongroom.errors import RefusedError, StrongroomError
from strongroom.jobs.spec import JobSpec
from strongroom.policy.evaluate import Refusal
from strongroom.statements import SigningKey, Statement, VerifyKey
from strongroom.workload.handover import MessageError, encode_failure
from strongroom.workload.hostline import HostLine
from strongroom.workload.keyring import output_dataset
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.parcel import accept, pack
from strongroom.workload.worker import Member, member_arguments

_JOB_DEADLINE = 24 * 3600.0


class Egress(Member):
    """One job's egress."""

    def __init__(self, *, driver: tuple[str, int], digest: str, directory: Path) -> None:
        super().__init__(role=Role.EGRESS, driver=driver, digest=digest)
        self._directory = directory

    def work(self) -> int:
        """Serve one job's outputs and return the exit code."""
        admission, spec = self.join()
        broker = self.attest_broker(admission)
        session = broker.attest_workload(
            self.tee,
            keys=self.keys,
            role=Role.EGRESS,
            job_digest=parse_text(self.digest),
            admission=admission.admission,
        )
        release = session.release(sorted(spec.inputs))
        said = self.channel.receive(deadline=_JOB_DEADLINE)
        if said.get("type") == "stop":
            return 0
        if said.get("type") != "outputs" or not isinstance(said.get("drafts"), list):
            raise MessageError("expected the job's outputs from the driver")
        try:
            ruled = [self._pass_one(OutputDraft.decode(one), spec, session, release) for one in said["drafts"]]
            self.channel.send({"type": "ruled", "outputs": ruled})
        except StrongroomError as error:
            self.channel.send(encode_failure(error))
            return error.exit_code
        return 0

    def _pass_one(self, draft: OutputDraft, spec: JobSpec, session: WorkloadSession, release: Keys) -> dict[str, Any]:
        """Check one draft, encrypt it to its recipients and deposit their keys at the broker."""
        statement = Statement.decode(draft.manifest)
        drafted = accept(draft.manifest, signer=VerifyKey(statement.signer))  # the attested driver says who signed
        keys = DatasetKeys.from_dek(
            release.output, dataset=output_dataset(draft.name), version=1, columns=drafted.columns
        )
        table = open_table(Path(draft.directory), keys, manifest=drafted).to_table()
        declared = spec.outputs.get(draft.name)
        facts = OutputFacts(
            name=draft.name,
            declared=declared is not None,
            rows=table.num_rows,
            columns=tuple(table.column_names),
            recipients=declared.recipients if declared is not None else (),
        )
        ruling = rule(facts, release.policy)
        if isinstance(ruling, Refusal):
            session.refuse_output(draft.name, reasons=ruling.reasons)
            raise RefusedError(f"output {draft.name!r} may not leave", reasons=ruling.reasons)
        return self._encrypt(table, ruling, session, release.recipients)

    def _encrypt(
        self, table: pa.Table, ruling: Release, session: WorkloadSession, recipients: Mapping[str, bytes]
    ) -> dict[str, Any]:
        signer, columns = SigningKey.generate(name="egress"), tuple(table.column_names)
        dataset = f"result.{self.digest[-16:]}.{ruling.name}"
        keys = DatasetKeys.from_dek(DataKey.generate(), dataset=dataset, version=1, columns=columns)
        bundle = keys.encode()
        directory = self._directory / "results" / ruling.name
        directory.parent.mkdir(exist_ok=True)
        manifest = pack(table, directory, keys, signer=signer)
        info = frame(b"strongroom/result/v1", self.digest.encode(), ruling.name.encode(), manifest.digest.encode())
        answer = session.submit_output(
            ruling.name,
            manifest_digest=manifest.digest,
            signer=signer.public.raw,
            rows=table.num_rows,
            columns=columns,
            sealed={
                str(recipient): hpke.seal(recipients[recipient.fingerprint], bundle, info=info)
                for recipient in ruling.recipients
            },
            location=str(directory),
        )
        return {
            "name": ruling.name,
            "rows": table.num_rows,
            "columns": list(columns),
            "directory": str(directory),
            "digest": manifest.digest,
            "state": answer.state,
            "id": answer.output_id,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run egress; nothing the host gives it is secret."""
    arguments = member_arguments("egress", argv)
    line = HostLine.take()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        egress = Egress(driver=arguments.driver, digest=arguments.job_digest, directory=arguments.directory)
        return egress.work()
    except StrongroomError as error:
        line.say("failed", message=error.message, kind=error.kind)
        return error.exit_code
