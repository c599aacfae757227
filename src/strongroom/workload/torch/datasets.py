"""Give a program its encrypted inputs as data sets of PyTorch's: sharded by rank, shuffled by epoch, read ahead.

Tables become tensors without a copy where Arrow's memory allows it; files are decrypted as they are asked for. No row
and no file is ever written decrypted (spec/3-job.md §10).
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from strongroom.errors import UsageError

Batch = dict[str, Any]
Files = Mapping[str, IO[bytes]]
Decode = Callable[[str, IO[bytes]], Any]
_AHEAD = 2  # row groups decrypted before they are asked for


def open_dataset(
    source: ds.Dataset | Files,
    *,
    rank: int,
    size: int,
    columns: Sequence[str] | None = None,
    stream: bool = False,
    batch_size: int = 256,
    shuffle: bool = False,
    seed: int = 0,
    decode: Decode | None = None,
) -> Any:  # noqa: ANN401  one of the three below
    """Return ``source`` as a data set.

    A table is a :class:`TableDataset`, whole in memory and for any sampler, or with ``stream`` a
    :class:`TableStream` of batches, a part for each of ``size`` ranks. Files are a :class:`FilesDataset`, each as
    ``decode(name, open file)`` returns it.
    """
    if not isinstance(source, ds.Dataset):
        if stream or columns is not None:
            raise UsageError("an input of files has no columns and no stream", hint="give decode=, and a sampler")
        return FilesDataset(source, decode=decode)
    if decode is not None:
        raise UsageError("only inputs of files are decoded", hint="a table's columns are tensors already")
    if stream:
        return TableStream(
            source, columns=columns, batch_size=batch_size, shuffle=shuffle, seed=seed, rank=rank, size=size
        )
    return TableDataset(source.to_table(columns=list(columns) if columns is not None else None))


class TableDataset(Dataset):  # type: ignore[misc]  # torch has no types here
    """A table in memory: item i is row i, a mapping from columns to tensors (texts stay texts)."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = as_tensors(table)
        self._rows: int = table.num_rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Batch:
        return {name: column[index] for name, column in self._columns.items()}

    def __getitems__(self, indices: list[int]) -> list[Batch]:
        taken = {name: pick(column, indices) for name, column in self._columns.items()}
        return [{name: column[row] for name, column in taken.items()} for row in range(len(indices))]

    @property
    def tensors(self) -> Batch:
        """Return the whole columns."""
        return dict(self._columns)


class TableStream(IterableDataset):  # type: ignore[misc]
    """Batches of one rank's part of a table, which never lies in memory as a whole.

    Row groups are dealt out to the ranks, or, where there are fewer than four for each, the rows of every group. With
    ``shuffle`` the groups come in another order in each epoch (:meth:`set_epoch`), and so do the rows within one. Every
    rank gives the same number of full batches, so that none waits for another; a few rows are left out for it.
    Give it to a DataLoader with ``batch_size=None``.
    """

    def __init__(
        self,
        source: ds.Dataset,
        *,
        columns: Sequence[str] | None,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int,
        size: int,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"a batch has at least one row, got {batch_size}")
        self._columns = list(columns) if columns is not None else None
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._rank, self._size = rank, size
        self._epoch = 0
        self._groups = [group for fragment in source.get_fragments() for group in fragment.split_by_row_group()]
        self._rows = [sum(one.num_rows for one in group.row_groups) for group in self._groups]
        self._by_rows = len(self._groups) < 4 * size

    def set_epoch(self, epoch: int) -> None:
        """Shuffle as of ``epoch``; all ranks must say the same."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of each rank."""
        return min(self._share(rank) for rank in range(self._size)) // self._batch_size

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        if info is not None and info.num_workers > 1:
            raise UsageError("a stream is read by one process of a DataLoader", hint="use num_workers=0 or 1")
        dealt = np.random.default_rng((self._seed, self._epoch))
        order = dealt.permutation(len(self._groups)) if self._shuffle else np.arange(len(self._groups))
        mine = [int(one) for one in (order if self._by_rows else order[np.isin(order % self._size, [self._rank])])]
        left, rest = len(self), None
        for read in read_ahead(mine, self._read):
            if left == 0:
                return
            table = read if rest is None else pa.concat_tables([rest, read])
            start = 0
            while left and table.num_rows - start >= self._batch_size:
                yield as_tensors(table.slice(start, self._batch_size))
                start += self._batch_size
                left -= 1
            rest = table.slice(start)

    def _share(self, rank: int) -> int:
        if self._by_rows:
            return sum(len(range(rank, rows, self._size)) for rows in self._rows)
        return sum(self._rows[rank :: self._size])

    def _read(self, group: int) -> pa.Table:
        """Decrypt this rank's rows of one group, in the order of this epoch."""
        table = self._groups[group].to_table(columns=self._columns)
        rows = np.arange(table.num_rows)
        if self._shuffle:
            rows = np.random.default_rng((self._seed, self._epoch, group)).permutation(table.num_rows)
        if self._by_rows:
            rows = rows[self._rank :: self._size]
        return table.take(pa.array(rows)) if self._shuffle or self._by_rows else table


class FilesDataset(Dataset):  # type: ignore[misc]
    """Files: item i is the file whose name is the i-th in order, decrypted and authenticated when it is asked for."""

    def __init__(self, files: Files, *, decode: Decode | None) -> None:
        self._files = files
        self._decode = decode or _bytes
        self.names = tuple(sorted(files))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401  what decode returns
        name = self.names[index]
        with self._files[name] as stream:
            return self._decode(name, stream)


def as_tensors(table: pa.Table) -> Batch:
    """Return the columns of a table: numbers as tensors, lists of one length as matrices, texts and bytes as lists."""
    return {name: _column(name, table.column(name)) for name in table.column_names}


def read_ahead(items: Sequence[int], read: Callable[[int], pa.Table]) -> Iterator[pa.Table]:
    """Yield what ``read`` returns for each item, in order, while a thread reads the next two."""
    ready: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=_AHEAD)
    over = threading.Event()

    def run() -> None:
        try:
            for item in items:
                _put(ready, read(item), over)
                if over.is_set():
                    return
            _put(ready, None, over)
        except BaseException as error:  # noqa: BLE001  raised where the next table is asked for
            _put(ready, error, over)

    threading.Thread(target=run, name="read-ahead", daemon=True).start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        over.set()


def pick(column: Any, indices: Sequence[int]) -> Any:  # noqa: ANN401
    """Return some rows of a column."""
    if isinstance(column, torch.Tensor):
        return column[torch.as_tensor(indices)]
    return [column[index] for index in indices]


def _put(ready: queue.Queue[Any], item: object, over: threading.Event) -> None:
    while not over.is_set():
        try:
            ready.put(item, timeout=0.2)
        except queue.Full:
            continue
        return


def _column(name: str, column: pa.ChunkedArray) -> Any:  # noqa: ANN401
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if array.null_count:
        raise UsageError(
            f"column {name!r} has {array.null_count} empty values, which no tensor has",
            hint="fill them first: room.sql with coalesce, or leave the column out with columns=",
        )
    kind = array.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _matrix(name, array)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _tensor(array)
    return array.to_pylist()


def _matrix(name: str, array: pa.Array) -> torch.Tensor:
    values = array.flatten()
    width, odd = divmod(len(values), max(1, len(array)))
    lengths_differ = not pa.types.is_fixed_size_list(array.type) and len(set(array.value_lengths().to_pylist())) > 1
    if odd or lengths_differ:
        raise UsageError(f"column {name!r} has lists of several lengths", hint="pad them to one length")
    return _tensor(values).reshape(len(array), width)


def _tensor(array: pa.Array) -> torch.Tensor:
    numbers = array.to_numpy(zero_copy_only=False)
    if not numbers.flags.writeable:  # Arrow's own memory: shared, and nobody writes to a batch that others hold
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(numbers)
    return torch.from_numpy(numbers)


def _bytes(name: str, stream: IO[bytes]) -> Mapping[str, Any]:
    held = torch.empty(stream.seek(0, io.SEEK_END), dtype=torch.uint8)
    stream.seek(0)
    count = stream.readinto(held.numpy())  # type: ignore[attr-defined]  # every binary file has it
    return {"name": name, "bytes": held[:count]}
