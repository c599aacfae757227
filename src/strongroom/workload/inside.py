"""What a program sees inside a job: its inputs by name, SQL, the Spark session, and one door out.

No key, path or address of the host appears here or in a program. Inputs arrive decrypted and limited to the columns
that every owner permits; an output leaves only through :meth:`Room.write`, encrypted, towards egress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from strongroom.errors import StrongroomError, UsageError
from strongroom.jobs.spec import JobOutput
from strongroom.workload.files import InputFiles
from strongroom.workload.outbox import OutputDraft

T = TypeVar("T")


class NotInsideError(StrongroomError):
    """``room`` was used outside a job."""


class NoSuchInputError(UsageError):
    """The program asked for an input that its job does not have."""


class NoSuchOutputError(UsageError):
    """The program wrote an output that its job does not have."""


class WrittenTwiceError(UsageError):
    """The program wrote an output twice; an output is written once."""


class WrongOutputError(UsageError):
    """The program wrote a table where files are declared (use room.save), or files for a table (use room.write)."""


class Engine(Protocol):
    """An engine that runs over a job's inputs: DuckDB in one process, or Apache Spark on attested workers."""

    def read(self, name: str) -> Any:  # noqa: ANN401  each engine has its own frames
        """Return the input called ``name`` as the engine's own frame."""
        ...

    def sql(self, text: str) -> Any:  # noqa: ANN401
        """Return the result of a query over the inputs as the engine's own frame."""
        ...

    def write(self, frame: Any, name: str) -> OutputDraft:  # noqa: ANN401
        """Encrypt ``frame`` into the outbox as the output called ``name``."""
        ...

    def scratch(self) -> Path:
        """Return a new, empty directory in memory that is gone with the job."""
        ...

    def open(self, name: str) -> InputFiles:
        """Return the files of the input called ``name``."""
        ...

    def load(self, name: str) -> Any:  # noqa: ANN401
        """Return the model in the input called ``name``."""
        ...

    def save(self, given: object, name: str, said: Mapping[str, Any]) -> OutputDraft:
        """Encrypt files into the outbox as the output called ``name``, with a model card."""
        ...

    @property
    def session(self) -> Any:  # noqa: ANN401
        """Return the engine's own session object."""
        ...

    rank: int
    size: int
    checkpoint: Any


class Room:
    """A job's room: made by the driver, handed to the program as ``strongroom.workload.room``."""

    def __init__(
        self,
        engine: Engine,
        *,
        inputs: Iterable[str],
        outputs: Mapping[str, JobOutput],
        purpose: str,
        on_output: Callable[[OutputDraft], None],
    ) -> None:
        self._engine = engine
        self._on_output = on_output
        self._written: set[str] = set()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._kinds = {name: output.kind for name, output in outputs.items()}
        self.purpose = purpose

    @property
    def spark(self) -> Any:  # noqa: ANN401
        """Return the ready-made Spark session (a ``pyspark.sql.SparkSession``)."""
        return self._engine.session

    def read(self, name: str) -> Any:  # noqa: ANN401
        """Return the input called ``name``: a Spark DataFrame, or an Arrow table in the embedded engine."""
        self._verify_input(name)
        return self._engine.read(name)

    def open(self, name: str) -> InputFiles:
        """Return the files of the input called ``name``, a model's for example: a mapping from names to open files."""
        self._verify_input(name)
        return self._engine.open(name)

    def load(self, name: str) -> Any:  # noqa: ANN401
        """Return the model that is the input called ``name``: a Spark ML model, or the weights of a PyTorch one."""
        self._verify_input(name)
        return self._engine.load(name)

    @property
    def rank(self) -> int:
        """Return which of the job's workers this is, from 0; in jobs that are not of kind ``torch`` always 0."""
        return self._engine.rank

    @property
    def size(self) -> int:
        """Return on how many workers this program runs."""
        return self._engine.size

    def dataset(self, name: str, **how: Any) -> Any:  # noqa: ANN401
        """Return the input called ``name`` as a data set of PyTorch's (spec/3-job.md §10); see workload.torch."""
        self._verify_input(name)
        if not hasattr(self._engine, "dataset"):
            raise UsageError("data sets of PyTorch's are for jobs of kind torch or python", hint="use room.read")
        return self._engine.dataset(name, **how)

    def xgboost(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called with XGBoost's collective over all workers (spec/3-job.md §10).

        In a job of kind ``torch`` every rank calls it, each with its own rows; elsewhere there is one worker.
        """
        return learn()

    def lightgbm(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called with LightGBM's network over all workers, like :meth:`xgboost`.

        LightGBM wants ``num_machines`` (:attr:`size`) and ``tree_learner`` among its parameters.
        """
        return learn()

    @property
    def checkpoint(self) -> Any:  # noqa: ANN401
        """Return where a program of kind ``torch`` keeps and finds how far it is."""
        if self._engine.checkpoint is None:
            raise UsageError("only jobs of kind torch begin again after a loss, and have checkpoints")
        return self._engine.checkpoint

    def scratch(self) -> Path:
        """Return a new, empty directory in memory, the only place to write files to; it is gone with the job."""
        return self._engine.scratch()

    def sql(self, text: str) -> Any:  # noqa: ANN401
        """Return the result of a SQL query over the inputs, each of which is a table of its own name."""
        return self._engine.sql(text)

    def write(self, frame: Any, name: str) -> None:  # noqa: ANN401
        """Write ``frame`` as the output called ``name``: encrypted, once, and towards egress only."""
        self._verify_output(name, files=False)
        self._written.add(name)
        self._on_output(self._engine.write(frame, name))

    def save(self, files: object, name: str, *, card: Mapping[str, Any] | None = None) -> None:
        """Save a model's files as the output called ``name``: encrypted, once, and towards egress only.

        ``files`` is a directory below :meth:`scratch`, a mapping from names to bytes or text, a Spark ML model, or a
        PyTorch module or state dict; pickles are refused.
        ``card`` is what the model's card is to say besides its lineage: features, metrics.
        """
        self._verify_output(name, files=True)
        draft = self._engine.save(files, name, dict(card or {}))
        self._written.add(name)
        self._on_output(draft)

    def missing(self) -> tuple[str, ...]:
        """Return the declared outputs that the program has not written."""
        return tuple(name for name in self.outputs if name not in self._written)

    def _verify_input(self, name: str) -> None:
        if name not in self.inputs:
            raise NoSuchInputError(
                f"this job has no input {name!r}; it has {list(self.inputs)}", hint="add it to the job's [inputs]"
            )

    def _verify_output(self, name: str, *, files: bool) -> None:
        if name not in self.outputs:
            raise NoSuchOutputError(
                f"this job has no output {name!r}; it has {list(self.outputs)}", hint="add it to the job's [outputs]"
            )
        if name in self._written:
            raise WrittenTwiceError(f"output {name!r} was written already; an output is written once")
        if files and self._kinds[name] == "table":
            raise WrongOutputError(
                f"output {name!r} is a table", hint='add kind = "files" to it in the job, or use room.write'
            )
        if not files and self._kinds[name] != "table":
            raise WrongOutputError(f"output {name!r} has files", hint="use room.save")


class _Outside:
    """Stands in for the room wherever there is none, and says so."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        current = _current
        if current is None:
            raise NotInsideError(
                f"room.{name} works only inside a Strongroom job",
                hint="submit the program with `strongroom submit JOB.toml`",
            )
        return getattr(current, name)


_current: Room | None = None
room: Any = _Outside()


def enter(current: Room) -> None:
    """Make ``current`` what programs of this process see as ``room``; only the driver calls this."""
    global _current  # noqa: PLW0603  one process runs one job
    _current = current


def leave() -> None:
    """Make programs of this process see no room any more."""
    global _current  # noqa: PLW0603  one process runs one job
    _current = None


def is_inside() -> bool:
    """Return whether programs of this process see a room."""
    return _current is not None
