"""Run a job on the embedded engine: DuckDB, Arrow and PyTorch's data sets in one process, a driver's or a rank's."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from strongroom.envelope.table import open_table
from strongroom.errors import UsageError
from strongroom.workload.engines import JobEngine, as_table
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.parcel import pack


class EmbeddedJobEngine(JobEngine):
    """DuckDB in this process; in a program that several workers run together, one for each rank."""

    def __init__(self, *, rank: int = 0, size: int = 1, **parts: Any) -> None:  # noqa: ANN401
        super().__init__(**parts)
        self.rank, self.size = rank, size
        from strongroom.workload.embedded import EmbeddedEngine

        self._tables = {
            name: open_table(
                Path(self.spec.inputs[name].location),
                self.ring.dataset(name),
                manifest=self.manifests[name],
                columns=self.columns[name],
            )
            for name in self.tables
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
        if name not in self._tables:
            raise UsageError(f"input {name!r} has files", hint=f'open them with room.open("{name}")')
        return self._tables[name].to_table()

    def sql(self, text: str) -> pa.Table:
        """Return the query's result as an Arrow table."""
        result = self._duck.sql(text)
        return result if isinstance(result, pa.Table) else result.read_all()

    def dataset(self, name: str, **how: Any) -> Any:  # noqa: ANN401
        """Return the input as a data set of PyTorch's, for this rank."""
        from strongroom.workload.torch.datasets import open_dataset

        source = self._tables[name] if name in self._tables else self.open(name)
        return open_dataset(source, rank=self.rank, size=self.size, **how)

    def load(self, name: str) -> Any:  # noqa: ANN401
        """Return the weights in the input called ``name``: a state dict of PyTorch's."""
        from strongroom.workload.torch.tensors import read_weights

        return read_weights(self.open(name))

    def save(self, given: object, name: str, said: Mapping[str, Any]) -> OutputDraft:
        """Encrypt files, or the weights of a PyTorch model, into the outbox, with a model card."""
        from strongroom.workload.torch.tensors import holds_weights, write_weights

        if holds_weights(given):
            given = write_weights(given, self.scratch())
        return super().save(given, name, said)

    def write(self, frame: Any, name: str) -> OutputDraft:  # noqa: ANN401
        """Encrypt an Arrow table, or a pandas or Polars frame, into the outbox."""
        table = as_table(frame)
        directory = self.outbox / f"{name}-{secrets.token_hex(4)}"
        columns = tuple(table.column_names)
        manifest = pack(table, directory, self.ring.output(name, columns), signer=self.signer)
        return self.draft(name, directory, manifest)

    def close(self) -> None:
        """Stop whatever query runs, forget the tables and remove the scratch directory; safe to call twice."""
        self._duck.close()
        self._tables.clear()
        super().close()
