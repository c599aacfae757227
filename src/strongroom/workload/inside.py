"""What a program sees inside a job: its inputs by name, SQL, the Spark session, and one door out.

No key, path or address of the host appears here or in a program. Inputs arrive decrypted and limited to the columns
that every owner permits; an output leaves only through :meth:`Room.write`, encrypted, towards egress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.outbox import OutputDraft


class NotInsideError(StrongroomError):
    """``room`` was used outside a job."""


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

    @property
    def session(self) -> Any:  # noqa: ANN401
        """Return the engine's own session object."""
        ...


class Room:
    """A job's room: made by the driver, handed to the program as ``strongroom.workload.room``."""

    def __init__(
        self,
        engine: Engine,
        *,
        inputs: Iterable[str],
        outputs: Iterable[str],
        purpose: str,
        on_output: Callable[[OutputDraft], None],
    ) -> None:
        self._engine = engine
        self._on_output = on_output
        self._written: set[str] = set()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.purpose = purpose

    @property
    def spark(self) -> Any:  # noqa: ANN401
        """Return the ready-made Spark session (a ``pyspark.sql.SparkSession``)."""
        return self._engine.session

    def read(self, name: str) -> Any:  # noqa: ANN401
        """Return the input called ``name``: a Spark DataFrame, or an Arrow table in the embedded engine."""
        if name not in self.inputs:
            raise UsageError(
                f"this job has no input {name!r}; it has {list(self.inputs)}", hint="add it to the job's [inputs]"
            )
        return self._engine.read(name)

    def sql(self, text: str) -> Any:  # noqa: ANN401
        """Return the result of a SQL query over the inputs, each of which is a table of its own name."""
        return self._engine.sql(text)

    def write(self, frame: Any, name: str) -> None:  # noqa: ANN401
        """Write ``frame`` as the output called ``name``: encrypted, once, and towards egress only."""
        if name not in self.outputs:
            raise UsageError(
                f"this job has no output {name!r}; it has {list(self.outputs)}", hint="add it to the job's [outputs]"
            )
        if name in self._written:
            raise UsageError(f"output {name!r} was written already; an output is written once")
        self._written.add(name)
        self._on_output(self._engine.write(frame, name))

    def missing(self) -> tuple[str, ...]:
        """Return the declared outputs that the program has not written."""
        return tuple(name for name in self.outputs if name not in self._written)


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
