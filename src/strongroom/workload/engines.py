"""Open the engine a job runs on, with its inputs decrypted on the fly and its outputs encrypted before they leave.

Two engines stand behind the same room: DuckDB over Arrow in the driver itself, and Apache Spark on attested workers.
Both verify an input's signed manifest before the first read and see only released columns.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from strongroom.attestation.roles import Role
from strongroom.digests import same
from strongroom.envelope.files import open_files
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.manifest import Manifest, read_manifest, verify_manifest
from strongroom.envelope.table import open_table
from strongroom.errors import EnvelopeError, RefusedError, UsageError
from strongroom.jobs.spec import JobInput, JobSpec
from strongroom.policy.fusion import FusedPolicy
from strongroom.policy.query import check_sql
from strongroom.statements import SigningKey
from strongroom.workload.card import CARD_FILE, ModelCard, loaded_libraries, trace_lineage
from strongroom.workload.files import InputFiles, bytes_opener, collect_files, describe
from strongroom.workload.formats import UnsafeFilesError, refuse_files
from strongroom.workload.handover import ClusterJoin
from strongroom.workload.keyring import KeyRing, output_dataset
from strongroom.workload.members import Members
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.parcel import pack_files, sign_for
from strongroom.workload.scratch import discard_scratch, make_scratch

if TYPE_CHECKING:
    from strongroom.envelope.keys import DatasetKeys

_JVM_DEADLINE = 120.0
_KINDS = {"embedded": ("sql", "python"), "spark": ("sql", "spark"), "torch": ("torch",)}
_PLACES = {"embedded": "process", "spark": "standalone", "torch": "process"}


class JobEngine:
    """What both engines share: the job, its keys, its inputs' manifests and its outbox."""

    dialect = "duckdb"
    rank, size = 0, 1
    checkpoint: Any = None

    def __init__(
        self,
        *,
        spec: JobSpec,
        ring: KeyRing,
        policy: FusedPolicy,
        directory: Path,
        job: str,
    ) -> None:
        self.spec = spec
        self.job = job
        self.ring = ring
        self.policy = policy
        self.outbox = directory / "outbox"
        self.outbox.mkdir(parents=True, exist_ok=True)
        self.signer = SigningKey.generate(name="driver")
        self.manifests = {
            name: input_manifest(wanted, keys=ring.dataset(name), content=ring.content(name))
            for name, wanted in spec.inputs.items()
        }
        self.tables = tuple(name for name, manifest in self.manifests.items() if manifest.kind == "table")
        # In the owner's order, not that of the keys.
        self.columns = {
            name: tuple(one for one in self.manifests[name].columns if one in set(ring.dataset(name).columns))
            for name in self.tables
        }
        self._verify_outputs()
        self._scratch = make_scratch()
        self._opened: dict[str, InputFiles] = {}

    def checked_query(self, text: str) -> Any:  # noqa: ANN401  the engine's own frame
        """Return the result of an sql job's query, after the fused policy has had its say on it."""
        return self.sql(check_sql(text, self.policy, tables=self.columns, dialect=self.dialect))

    def sql(self, text: str) -> Any:  # noqa: ANN401
        """Return the result of a query over the inputs."""
        raise NotImplementedError

    def scratch(self) -> Path:
        """Return a new, empty directory in memory that is gone with the job."""
        parent = self._scratch / "files"
        parent.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=parent))

    @property
    def writable(self) -> tuple[Path, ...]:
        """Return the directories that a program may write to: those in memory, and the outbox for what is encrypted."""
        return (self._scratch.parent, self.outbox)

    def open(self, name: str) -> InputFiles:
        """Return the files of the input called ``name``."""
        manifest = self.manifests[name]
        if manifest.kind != "files":
            raise UsageError(f"input {name!r} is a table", hint=f'read it with room.read("{name}")')
        if name not in self._opened:
            sealed = open_files(Path(self.spec.inputs[name].location), self.ring.dataset(name), manifest=manifest)
            self._opened[name] = InputFiles(sealed, scratch=self.scratch)
        return self._opened[name]

    def load(self, name: str) -> Any:  # noqa: ANN401
        """Return the model in the input called ``name``."""
        raise UsageError("only Spark's own models can be loaded by name", hint=f'use room.open("{name}")')

    def save(self, given: object, name: str, said: Mapping[str, Any]) -> OutputDraft:
        """Encrypt files into the outbox, with a model card; raise PolicyError for formats that run code."""
        files = collect_files(given)
        if CARD_FILE in files:
            raise UsageError(f"{CARD_FILE} is written by Strongroom", hint="say it with room.save(..., card={...})")
        if reasons := refuse_files(files):
            raise UnsafeFilesError(f"output {name!r} may not be saved", reasons=reasons)
        versions = {one: self.ring.dataset(one).version for one in self.spec.inputs}
        card = ModelCard(
            lineage=trace_lineage(self.spec, self.policy, output=name, job=self.job, versions=versions),
            files=describe(files),
            made_with=loaded_libraries(),
            said=said,
        )
        directory = self.outbox / f"{name}-{secrets.token_hex(4)}"
        sources = {**files, CARD_FILE: bytes_opener(card.encode())}
        manifest = pack_files(sources, directory, self.ring.output_files(name), signer=self.signer)
        return self.draft(name, directory, manifest)

    def close(self) -> None:
        """Stop what runs and remove the scratch directory; safe to call twice."""
        discard_scratch(self._scratch)

    def _verify_outputs(self) -> None:
        """Refuse, before hours of training, what egress would refuse afterwards."""
        reasons = [
            f"output {name!r} has files, and not every owner permits any (its policy needs [outputs.files])"
            for name, output in self.spec.outputs.items()
            if output.kind != "table" and self.policy.files is None
        ]
        if reasons:
            raise RefusedError("the outputs may not leave", reasons=tuple(reasons), hint="ask the owners to permit it")

    def draft(self, name: str, directory: Path, manifest: Manifest) -> OutputDraft:
        """Return the description of an output that was written into the outbox."""
        return OutputDraft(name=name, directory=str(directory), manifest=manifest.statement.encode())


class SparkJobEngine(JobEngine):
    """Apache Spark: the scheduler in the driver, executors on attested workers."""

    dialect = "spark"

    def __init__(
        self,
        *,
        members: Members,
        on_event: Callable[..., None],
        timings: dict[str, float],
        address: str,
        on_wish: Callable[[int], None],
        **parts: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**parts)
        self._verify_tables()
        self._on_wish = on_wish
        self._members = members
        self._address = address
        self._on_event = on_event
        self._timings = timings
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
            listen_host=self._address,
            agent_socket=self._agent.path,
            work_dir=self._scratch,
            app_name=self.spec.name,
            inputs=[Path(wanted.location) for wanted in self.spec.inputs.values()],
            outbox=self.outbox,
            cores=self.spec.worker_cores,
            workers=self.spec.workers,
            most_workers=self.spec.most_workers,
            on_word=self._take_word,
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
            ),
            on_gone=self._spark.forget_executor,
        )
        self._members.wait_for(Role.WORKER, self.spec.workers, deadline=deadline)
        self._spark.wait_executors(self.spec.workers, deadline=_JVM_DEADLINE)
        for name in self.tables:
            self.read(name).createOrReplaceTempView(name)
        self._timings["spark-start"] = time.monotonic() - started
        self._on_event("spark-started", seconds=self._timings["spark-start"], executors=self.spec.workers)

    def _take_word(self, word: str, number: int) -> None:
        """Do what Spark's scheduler wants: more or fewer workers, or that one leaves."""
        match word:
            case "wanted":
                self._on_wish(number)
            case "leaving":
                self._members.note_leaving(number)
                self._on_event("worker-leaving", member=number)
            case "dismiss":
                self._members.dismiss(number)
                self._on_event("worker-dismissed", member=number)

    def _verify_tables(self) -> None:
        """Open every file's footer under the keys of its own dataset alone.

        Executors ask for keys by the id that a file names. An owner could sign for a copy of another owner's
        ciphertext, and have it read under that owner's keys and its own policy. They check each footer's digest.
        """
        for name in self.tables:
            location, keys = Path(self.spec.inputs[name].location), self.ring.dataset(name)
            open_table(location, keys, manifest=self.manifests[name], columns=self.columns[name])

    def read(self, name: str) -> Any:  # noqa: ANN401
        """Return the input as a Spark DataFrame."""
        if name not in self.tables:
            raise UsageError(f"input {name!r} has files", hint=f'open them with room.open("{name}")')
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
            super().close()

    def load(self, name: str) -> Any:  # noqa: ANN401
        """Return the Spark ML model in the input called ``name``."""
        from strongroom.workload.spark.models import load_model

        return load_model(self.session, self.open(name).unpack())

    def save(self, given: object, name: str, said: Mapping[str, Any]) -> OutputDraft:
        """Encrypt files, or a Spark ML model, into the outbox, with a model card."""
        from strongroom.workload.spark.models import is_model, save_model

        if is_model(given):
            given = save_model(given, self.scratch() / "model")
        return super().save(given, name, said)


def as_table(frame: Any) -> pa.Table:  # noqa: ANN401
    """Return an Arrow table, or a pandas or Polars frame, as an Arrow table; raise UsageError for anything else."""
    if isinstance(frame, pa.RecordBatchReader):
        return frame.read_all()
    if isinstance(frame, pa.Table):
        return frame
    if callable(getattr(frame, "to_arrow", None)):
        return frame.to_arrow()
    if type(frame).__module__.partition(".")[0] == "pandas":
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    raise UsageError(
        f"cannot write a {type(frame).__name__} as a table",
        hint="give an Arrow table, or a pandas or Polars data frame; room.save takes files",
    )


def verify_engine(name: str, *, kind: str) -> None:
    """Raise RefusedError unless the engine called ``name`` runs jobs of ``kind``."""
    if kind not in _KINDS[name]:
        others = [engine for engine, kinds in _KINDS.items() if kind in kinds]
        raise RefusedError(
            f"the {name} engine runs {' and '.join(_KINDS[name])} jobs, not {kind}",
            hint=f"use --cluster {_PLACES[others[0]]}" if others else "",
        )


def open_engine(
    name: str,
    *,
    members: Members | None,
    on_event: Callable[..., None],
    timings: dict[str, float],
    address: str = "127.0.0.1",
    on_wish: Callable[[int], None] = lambda _count: None,
    **parts: Any,  # noqa: ANN401
) -> JobEngine:
    """Return the engine called ``name`` (``embedded`` or ``spark``) over the job's inputs.

    ``address`` is where this machine's executors, or other machines', find Spark's scheduler. ``on_wish`` hears how
    many executors it wants.
    """
    if name == "spark":
        if members is None:
            raise EnvelopeError("Spark needs workers")
        return SparkJobEngine(
            members=members, on_event=on_event, timings=timings, address=address, on_wish=on_wish, **parts
        )
    from strongroom.workload.embedded_job import EmbeddedJobEngine

    return EmbeddedJobEngine(**parts)


def input_manifest(wanted: JobInput, *, keys: DatasetKeys, content: str) -> Manifest:
    """Return an input's verified manifest; raise EnvelopeError unless it describes the very data that was registered.

    ``content`` is what the broker says of the dataset that ``keys`` open (``Manifest.content``).
    """
    manifest = verify_manifest(read_manifest(Path(wanted.location)), owner=wanted.owner)
    if (manifest.dataset, manifest.version) != (keys.dataset, keys.version):
        raise EnvelopeError(
            f"{wanted.location} holds {manifest.dataset}@{manifest.version}, "
            f"the released keys are of {keys.dataset}@{keys.version}",
            hint="give the location of the version that the owner registered last",
        )
    if not same(manifest.content.encode(), content.encode()):
        raise TamperedDataError(
            f"{wanted.location} holds other data than the owner registered as {keys.dataset}@{keys.version}: "
            f"{manifest.content}, registered is {content}",
            hint="fetch the registered files again; changed data is registered as a new version",
        )
    return manifest
