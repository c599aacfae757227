"""Open the engine a job runs on, with its inputs decrypted on the fly and its outputs encrypted before they leave.

Two engines stand behind the same room: DuckDB over Arrow in the driver itself, and Apache Spark on attested workers.
Both verify an input's signed manifest before the first read and see only released columns.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from strongroom.attestation.roles import Role
from strongroom.envelope.manifest import Manifest, read_manifest, verify_manifest
from strongroom.envelope.table import open_table
from strongroom.errors import EnvelopeError
from strongroom.jobs.spec import JobInput, JobSpec
from strongroom.policy.fusion import FusedPolicy
from strongroom.policy.query import check_sql
from strongroom.statements import SigningKey
from strongroom.workload.handover import ClusterJoin
from strongroom.workload.keyring import KeyRing, output_dataset
from strongroom.workload.members import Members
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.parcel import pack, sign_for
from strongroom.workload.scratch import discard_scratch, make_scratch

if TYPE_CHECKING:
    from strongroom.envelope.keys import DatasetKeys

_JVM_DEADLINE = 120.0


class JobEngine:
    """What both engines share: the job, its keys, its inputs' manifests and its outbox."""

    dialect = "duckdb"

    def __init__(
        self,
        *,
        spec: JobSpec,
        ring: KeyRing,
        policy: FusedPolicy,
        directory: Path,
    ) -> None:
        self.spec = spec
        self.ring = ring
        self.policy = policy
        self.outbox = directory / "outbox"
        self.outbox.mkdir(parents=True, exist_ok=True)
        self.signer = SigningKey.generate(name="driver")
        self.manifests = {
            name: input_manifest(name, wanted, ring.dataset(name)) for name, wanted in spec.inputs.items()
        }
        self.columns = {name: self.ring.dataset(name).columns for name in spec.inputs}

    def checked_query(self, text: str) -> Any:  # noqa: ANN401  the engine's own frame
        """Return the result of an sql job's query, after the fused policy has had its say on it."""
        return self.sql(check_sql(text, self.policy, tables=self.columns, dialect=self.dialect))

    def sql(self, text: str) -> Any:  # noqa: ANN401
        """Return the result of a query over the inputs."""
        raise NotImplementedError

    def draft(self, name: str, directory: Path, manifest: Manifest) -> OutputDraft:
        """Return the description of an output that was written into the outbox."""
        return OutputDraft(name=name, directory=str(directory), manifest=manifest.statement.encode())


class EmbeddedJobEngine(JobEngine):
    """DuckDB in the driver's own process."""

    def __init__(self, **parts: Any) -> None:  # noqa: ANN401
        super().__init__(**parts)
        from strongroom.workload.embedded import EmbeddedEngine

        self._tables = {
            name: open_table(
                Path(self.spec.inputs[name].location),
                self.ring.dataset(name),
                manifest=self.manifests[name],
                columns=self.columns[name],
            )
            for name in self.spec.inputs
        }
        self._duck = EmbeddedEngine(self._tables)

    @property
    def session(self) -> Any:  # noqa: ANN401
        """Return the DuckDB engine; there is no Spark session here."""
        return self._duck

    def prepare(self, *, deadline: float) -> None:
        """Do nothing: one process is ready as it is."""

    def read(self, name: str) -> pa.Table:
        """Return the input as an Arrow table."""
        return self._tables[name].to_table()

    def sql(self, text: str) -> pa.Table:
        """Return the query's result as an Arrow table."""
        result = self._duck.sql(text)
        return result if isinstance(result, pa.Table) else result.read_all()

    def write(self, frame: Any, name: str) -> OutputDraft:  # noqa: ANN401
        """Encrypt an Arrow table (or a pandas frame) into the outbox."""
        table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
        directory = self.outbox / f"{name}-{secrets.token_hex(4)}"
        columns = tuple(table.column_names)
        manifest = pack(table, directory, self.ring.output(name, columns), signer=self.signer)
        return self.draft(name, directory, manifest)

    def close(self) -> None:
        """Stop whatever query runs and forget the tables."""
        self._duck.close()


class SparkJobEngine(JobEngine):
    """Apache Spark: the scheduler in the driver, executors on attested workers."""

    dialect = "spark"

    def __init__(
        self,
        *,
        members: Members,
        on_event: Callable[..., None],
        timings: dict[str, float],
        **parts: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**parts)
        self._members = members
        self._on_event = on_event
        self._timings = timings
        self._scratch = make_scratch()
        self._secret = secrets.token_bytes(32)
        self._agent: Any = None
        self._spark: Any = None
        self._views: set[str] = set()

    @property
    def session(self) -> Any:  # noqa: ANN401
        """Return the ready-made SparkSession."""
        return self._spark.session

    def prepare(self, *, deadline: float) -> None:
        """Wait for the first admitted worker, start the scheduler, and let admitted workers join."""
        from strongroom.workload.agent import KeyAgent
        from strongroom.workload.spark.cluster import DriverSpark

        self._members.wait_for(Role.WORKER, 1, deadline=deadline)
        started = time.monotonic()
        self._agent = KeyAgent(self.ring.find, directory=self._scratch)
        self._agent.start()
        self._spark = DriverSpark(
            secret=self._secret,
            listen_host="127.0.0.1",
            agent_socket=self._agent.path,
            work_dir=self._scratch,
            app_name=self.spec.name,
            inputs=[Path(wanted.location) for wanted in self.spec.inputs.values()],
            outbox=self.outbox,
        )
        self._spark.start()
        self._members.open_cluster(
            lambda number: ClusterJoin(
                secret=self._secret,
                driver_url=self._spark.driver_url,
                app_id=self._spark.app_id,
                executor_id=number,
                cores=self.spec.worker_cores,
                memory=self.spec.worker_memory,
            )
        )
        self._members.wait_for(Role.WORKER, self.spec.workers, deadline=deadline)
        self._spark.wait_executors(self.spec.workers, deadline=_JVM_DEADLINE)
        for name in self.spec.inputs:
            self.read(name).createOrReplaceTempView(name)
        self._timings["spark-start"] = time.monotonic() - started
        self._on_event("spark-started", seconds=self._timings["spark-start"], executors=self.spec.workers)

    def read(self, name: str) -> Any:  # noqa: ANN401
        """Return the input as a Spark DataFrame."""
        return self._spark.read_encrypted(
            self.manifests[name], Path(self.spec.inputs[name].location), self.columns[name]
        )

    def sql(self, text: str) -> Any:  # noqa: ANN401
        """Return the query's result as a Spark DataFrame."""
        return self.session.sql(text)

    def write(self, frame: Any, name: str) -> OutputDraft:  # noqa: ANN401
        """Encrypt a Spark DataFrame (or a pandas frame) into the outbox, by the executors."""
        from pyspark.sql import Observation
        from pyspark.sql import functions as F  # noqa: N812  as everybody calls it

        if not hasattr(frame, "sparkSession"):
            frame = self.session.createDataFrame(frame)
        directory = self.outbox / f"{name}-{secrets.token_hex(4)}"
        columns = tuple(frame.columns)
        written = Observation()
        counted = frame.observe(written, F.count(F.lit(1)).alias("rows"))
        self._spark.write_encrypted(counted, directory, dataset=output_dataset(name), version=1)
        rows = int(written.get["rows"])
        return self.draft(
            name, directory, sign_for(directory, self.ring.output(name, columns), rows=rows, signer=self.signer)
        )

    def close(self) -> None:
        """Stop Spark and remove the scratch directory; safe to call twice."""
        try:
            if self._spark is not None:
                self._spark.stop()
            if self._agent is not None:
                self._agent.close()
        finally:
            discard_scratch(self._scratch)


def open_engine(
    name: str,
    *,
    members: Members | None,
    on_event: Callable[..., None],
    timings: dict[str, float],
    **parts: Any,  # noqa: ANN401
) -> EmbeddedJobEngine | SparkJobEngine:
    """Return the engine called ``name`` (``embedded`` or ``spark``) over the job's inputs."""
    if name == "spark":
        if members is None:
            raise EnvelopeError("Spark needs workers")
        return SparkJobEngine(members=members, on_event=on_event, timings=timings, **parts)
    return EmbeddedJobEngine(**parts)


def input_manifest(name: str, wanted: JobInput, keys: DatasetKeys) -> Manifest:
    """Return an input's verified manifest; raise EnvelopeError unless it is of the released dataset and version."""
    manifest = verify_manifest(read_manifest(Path(wanted.location)), owner=wanted.owner)
    if (manifest.dataset, manifest.version) != (name, keys.version):
        raise EnvelopeError(
            f"{wanted.location} holds {manifest.dataset}@{manifest.version}, "
            f"the released keys are of {name}@{keys.version}",
            hint="give the location of the version that the owner registered last",
        )
    return manifest
