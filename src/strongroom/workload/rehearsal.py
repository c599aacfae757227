"""Try a program on made-up data, outside any job: the same room, plain tables, nothing encrypted and nothing protected.

For analysts at home, since a job never shows them what their program printed, and for tests that compare its numbers
with a plain run. No job ever runs through here.
"""

from __future__ import annotations

import linecache
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from strongroom.errors import UsageError
from strongroom.workload import inside
from strongroom.workload.embedded import EmbeddedEngine
from strongroom.workload.engines import as_table
from strongroom.workload.files import collect_files
from strongroom.workload.formats import UnsafeFilesError, refuse_files

_NAME = "program.py"  # as in a job
Output = Any  # an Arrow table, or the bytes of files by name


class RehearsalRoom:
    """A room of plain ``tables`` and ``files``; with ``spark``, a stock session, frames are Spark's."""

    def __init__(
        self,
        *,
        tables: Mapping[str, pa.Table],
        files: Mapping[str, Mapping[str, bytes]],
        spark: Any,  # noqa: ANN401
    ) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="strongroom-rehearsal-"))
        self._tables = dict(tables)
        self._files = {name: {one: bytes(data) for one, data in given.items()} for name, given in files.items()}
        self._duck = EmbeddedEngine({name: ds.dataset(table) for name, table in self._tables.items()})
        self.spark = spark
        self.inputs = (*tables, *files)
        # As torchrun sets them: the same program can be tried on several processes, or on one.
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.checkpoint = RehearsalCheckpoint()
        self.written: dict[str, Output] = {}
        if spark is not None:
            import pyarrow.parquet as pq

            for name, table in self._tables.items():
                pq.write_table(table, self._home / f"{name}.parquet")
                spark.read.parquet(str(self._home / f"{name}.parquet")).createOrReplaceTempView(name)

    def read(self, name: str) -> Any:  # noqa: ANN401
        """Return an input as the engine's own frame."""
        return self._tables[name] if self.spark is None else self.spark.table(name)

    def sql(self, text: str) -> Any:  # noqa: ANN401
        """Return the result of a query over the inputs."""
        return self._duck.sql(text) if self.spark is None else self.spark.sql(text)

    def scratch(self) -> Path:
        """Return a new, empty directory."""
        return Path(tempfile.mkdtemp(dir=self._home))

    def open(self, name: str) -> RehearsalFiles:
        """Return the files of an input."""
        return RehearsalFiles(self._files[name], self.scratch)

    def dataset(self, name: str, **how: Any) -> Any:  # noqa: ANN401
        """Return an input as a data set of PyTorch's."""
        from strongroom.workload.torch.datasets import open_dataset

        source = ds.dataset(self._tables[name]) if name in self._tables else self.open(name)
        return open_dataset(source, rank=self.rank, size=self.size, **how)

    def load(self, name: str) -> Any:  # noqa: ANN401
        """Return the Spark ML model, or the weights, in an input."""
        if self.spark is None:
            from strongroom.workload.torch.tensors import read_weights

            return read_weights(self.open(name))
        from strongroom.workload.spark.models import load_model

        return load_model(self.spark, self.open(name).unpack())

    def write(self, frame: Any, name: str) -> None:  # noqa: ANN401
        """Keep a table as the output called ``name``."""
        self.written[name] = frame.toArrow() if hasattr(frame, "toArrow") else as_table(frame)

    def save(self, given: Any, name: str, *, card: Mapping[str, Any] | None = None) -> None:  # noqa: ANN401
        """Keep files as the output called ``name``; what a job would refuse is refused."""
        del card
        if self.spark is not None:
            from strongroom.workload.spark.models import is_model, save_model

            given = save_model(given, self.scratch() / "model") if is_model(given) else given
        from strongroom.workload.torch.tensors import holds_weights, write_weights

        files = collect_files(write_weights(given, self.scratch()) if holds_weights(given) else given)
        if reasons := refuse_files(files):
            raise UnsafeFilesError(f"output {name!r} may not be saved", reasons=reasons)
        kept = {}
        for one, opened in files.items():
            with opened() as stream:
                kept[one] = stream.read()
        self.written[name] = kept

    def close(self) -> None:
        """Forget everything."""
        self._duck.close()
        shutil.rmtree(self._home, ignore_errors=True)


class RehearsalCheckpoint:
    """Keeps a checkpoint for as long as the rehearsal lasts; what a job would refuse is refused."""

    def __init__(self) -> None:
        self._kept: tuple[str, Mapping[str, Any]] | None = None

    def save(self, state: object, *, step: int) -> None:
        """Keep ``state``."""
        from strongroom.workload.torch.tensors import take_apart

        del step
        text, tensors = take_apart(state)
        self._kept = text, {name: tensor.clone() for name, tensor in tensors.items()}

    def load(self) -> Any:  # noqa: ANN401
        """Return the state that was kept last, or None."""
        from strongroom.workload.torch.tensors import put_together

        return None if self._kept is None else put_together(*self._kept)


class RehearsalFiles(dict[str, Any]):
    """Files by name, as a job's input of files gives them."""

    def __init__(self, files: Mapping[str, bytes], scratch: Any) -> None:  # noqa: ANN401
        super().__init__({name: collect_files({name: data})[name]() for name, data in files.items()})
        self._files = files
        self._scratch = scratch

    def unpack(self) -> Path:
        """Return a directory with the files."""
        directory: Path = self._scratch()
        for name, data in self._files.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return directory


def rehearse(
    program: bytes,
    *,
    tables: Mapping[str, pa.Table],
    files: Mapping[str, Mapping[str, bytes]] | None = None,
    spark: Any = None,  # noqa: ANN401  a stock SparkSession
) -> dict[str, Output]:
    """Run ``program`` on plain ``tables`` and return its outputs: tables, and files by name; its errors are its own."""
    if inside.is_inside():
        raise UsageError("a job cannot rehearse")
    room = RehearsalRoom(tables=tables, files=files or {}, spark=spark)
    inside.enter(room)  # type: ignore[arg-type]  # the part of a room that programs see
    # A traceback shows the lines of this program, and not those of some other file of that name.
    linecache.cache[_NAME] = (len(program), None, program.decode(errors="replace").splitlines(keepends=True), _NAME)
    try:
        exec(compile(program, _NAME, "exec"), {"__name__": "__main__"})  # noqa: S102  the analyst's own program
    finally:
        inside.leave()
        room.close()
    return room.written
