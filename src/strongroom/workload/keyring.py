"""Hold what the broker released to this process, answer for single keys, and forget everything at once.

The ring is the only place in a job's process where released keys live. It refuses once it is wiped, and a wiped ring
stays wiped (spec/4-release.md §9): a holder whose lease ended must not read one more row.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.envelope.names import OUTPUT_PREFIX
from strongroom.errors import EnvelopeError


class KeysWithdrawnError(EnvelopeError):
    """The keys were wiped, because a lease ended or an owner revoked."""


class KeyRing:
    """The keys of one process of a job, by dataset and by Parquet key id."""

    def __init__(self) -> None:
        self._datasets: dict[str, DatasetKeys] = {}
        self._contents: dict[str, str] = {}
        self._output: DataKey | None = None
        self._withdrawn = ""
        self._lock = threading.Lock()

    def hold(self, datasets: Mapping[str, DatasetKeys], *, contents: Mapping[str, str], output: DataKey | None) -> None:
        """Take in released keys and what they are for; a later release replaces an earlier one of the same dataset."""
        with self._lock:
            if self._withdrawn:
                raise KeysWithdrawnError(self._withdrawn)
            self._datasets.update(datasets)
            self._contents.update(contents)
            self._output = output or self._output

    def dataset(self, name: str) -> DatasetKeys:
        """Return the keys of the dataset called ``name``."""
        with self._lock:
            self._check()
            if name not in self._datasets:
                raise EnvelopeError(f"no key of dataset {name!r} was released to this process")
            return self._datasets[name]

    def content(self, name: str) -> str:
        """Return the digest of the data that the owner of the dataset called ``name`` registered."""
        with self._lock:
            self._check()
            if name not in self._contents:
                raise EnvelopeError(f"the broker did not say which data dataset {name!r} is")
            return self._contents[name]

    def output(self, name: str, columns: tuple[str, ...]) -> DatasetKeys:
        """Return the keys under which this job writes its output ``name``."""
        with self._lock:
            self._check()
            if self._output is None:
                raise EnvelopeError("no output key was released to this process")
            return DatasetKeys.from_dek(self._output, dataset=output_dataset(name), version=1, columns=columns)

    def output_files(self, name: str) -> DatasetKeys:
        """Return the keys under which this job writes the files of its output ``name``."""
        with self._lock:
            self._check()
            if self._output is None:
                raise EnvelopeError("no output key was released to this process")
            return DatasetKeys.for_files(self._output, dataset=output_dataset(name), version=1)

    def checkpoints(self, version: int) -> DatasetKeys:
        """Return the keys of this job's checkpoint number ``version``, which every attested worker of it can have."""
        with self._lock:
            self._check()
            if self._output is None:
                raise EnvelopeError("no output key was released to this process")
            return DatasetKeys.for_files(self._output, dataset=_CHECKPOINT, version=version)

    def find(self, key_id: str) -> DataKey:
        """Return the key called ``key_id``, as Parquet's key tools ask for it.

        Raises EnvelopeError if it was not released, KeysWithdrawnError if everything was wiped.
        """
        dataset, _, rest = key_id.partition("@")
        if dataset.startswith(OUTPUT_PREFIX):
            name = dataset.removeprefix(OUTPUT_PREFIX)
            column = rest.partition("/column/")[2]
            return self.output(name, (column,) if column else ()).key(key_id)
        with self._lock:
            self._check()
            for keys in self._datasets.values():
                if key_id in keys:
                    return keys.key(key_id)
        raise EnvelopeError(
            f"key {key_id!r} was not released to this process",
            hint="the policy withholds this column, or the job did not ask for it",
        )

    def wipe(self, reason: str) -> None:
        """Forget every key; from now on each request fails with ``reason``."""
        with self._lock:
            self._withdrawn = reason or "the keys were withdrawn"
            for keys in self._datasets.values():
                keys.wipe()
            self._datasets.clear()
            if self._output is not None:
                self._output.wipe()
            self._output = None

    @property
    def withdrawn(self) -> str:
        """Return why the keys were wiped, or nothing while they are held."""
        return self._withdrawn

    def _check(self) -> None:
        if self._withdrawn:
            raise KeysWithdrawnError(self._withdrawn)


_CHECKPOINT = "checkpoint"  # no output can be called so, for theirs have the prefix


def output_dataset(name: str) -> str:
    """Return the dataset name under which a job's output ``name`` is encrypted on its way to egress."""
    return f"{OUTPUT_PREFIX}{name}"
