"""Data at rest for attackers to work on: an honest owner's table and files, and keys as a broker releases them."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from strongroom.envelope.container import SMALL_SEGMENT_BYTES
from strongroom.envelope.files import encrypt_files
from strongroom.envelope.keys import DataKey, DatasetKeys, reveal
from strongroom.envelope.manifest import Manifest, sign_manifest, unwrap_data_key, write_manifest
from strongroom.envelope.table import Layout, describe_schema, write_table
from strongroom.envelope.wrapping import unwrap_key, wrap_key
from strongroom.statements import SigningKey

sys.path.insert(0, str(Path(__file__).parent))  # The attacker between two ends of a channel.
for room in ("attestation", "broker", "ledger", "workload"):  # Their attackers act in the scenes of the unit tests.
    sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / room))
sys.path.insert(0, str(Path(__file__).parent))  # The attackers' own tools.
sys.path.insert(0, str(Path(__file__).parent.parent / "journey"))  # The small world that journeys are attacked in.

ROWS = 2000


@dataclass
class OwnerAtRest:
    """What the attacker got hold of (``directory``), and what it did not (``owner``, ``dek``)."""

    directory: Path
    manifest: Manifest
    owner: SigningKey
    dek: DataKey

    def keys(self, *columns: str, version: int | None = None) -> DatasetKeys:
        dataset, released = self.manifest.dataset, version or self.manifest.version
        if self.manifest.kind == "files":
            return DatasetKeys.for_files(self.dek, dataset=dataset, version=released)
        return DatasetKeys.from_dek(
            self.dek, dataset=dataset, version=released, columns=columns or self.manifest.columns
        )

    def path(self, index: int = 0) -> Path:
        return self.directory / self.manifest.files[index].path

    def copy(self, directory: Path) -> OwnerAtRest:
        shutil.copytree(self.directory, directory)
        return OwnerAtRest(directory, self.manifest, self.owner, self.dek)


class _Home:
    """Custody in memory."""

    uri = "memory:owner"

    def __init__(self) -> None:
        self.master = DataKey.generate()

    def wrap(self, key: DataKey, *, context: bytes) -> str:
        return wrap_key(self.master, reveal(key), context=context)

    def unwrap(self, wrapped: str, *, context: bytes) -> DataKey:
        return DataKey(unwrap_key(self.master, wrapped, context=context))


def build_table(directory: Path, *, owner: SigningKey, dek: DataKey, version: int = 2, raises: int = 0) -> OwnerAtRest:
    """Write a table of three files or more, so that there is something to swap."""
    table = pa.table(
        {
            "id": range(ROWS),
            "name": [f"person {i}" for i in range(ROWS)],
            "salary": [30_000 + 10 * i + raises for i in range(ROWS)],
        }
    )
    keys = DatasetKeys.from_dek(dek, dataset="people", version=version, columns=table.column_names)
    entries = write_table(table, directory, keys, layout=Layout(row_group_rows=500, part_bytes=1))
    manifest = sign_manifest(
        dataset="people",
        version=version,
        kind="table",
        schema=describe_schema(table.schema),
        files=entries,
        custody="memory:owner",
        wrapped_key="none",
        created=datetime(2024, 5, version, tzinfo=UTC),
        owner=owner,
    )
    write_manifest(directory, manifest)
    return OwnerAtRest(directory, manifest, owner, dek)


@pytest.fixture(scope="session")
def data_owner():
    return SigningKey.generate(name="owner")


@pytest.fixture(scope="session")
def _pristine_table(tmp_path_factory, data_owner):
    return build_table(tmp_path_factory.mktemp("pristine") / "people", owner=data_owner, dek=DataKey.generate())


@pytest.fixture(scope="session")
def _pristine_files(tmp_path_factory, data_owner):
    source = tmp_path_factory.mktemp("source")
    for name in ("a", "b"):
        (source / name).write_bytes(os.urandom(3 * SMALL_SEGMENT_BYTES + 100))
    home = _Home()
    target = tmp_path_factory.mktemp("pristine") / "scans"
    manifest = encrypt_files(
        source, target, dataset="scans", version=2, owner=data_owner, custody=home, segment_size=SMALL_SEGMENT_BYTES
    )
    return OwnerAtRest(target, manifest, data_owner, unwrap_data_key(manifest, custody=home))


@pytest.fixture
def table_at_rest(_pristine_table, tmp_path):
    return _pristine_table.copy(tmp_path / "people")


@pytest.fixture
def files_at_rest(_pristine_files, tmp_path):
    return _pristine_files.copy(tmp_path / "scans")


@pytest.fixture
def older_table(tmp_path, table_at_rest):
    """Version 1 of the same table, signed by the same owner and encrypted under the same data key."""
    return build_table(tmp_path / "older", owner=table_at_rest.owner, dek=table_at_rest.dek, version=1, raises=-5000)


@pytest.fixture
def other_rows(tmp_path, table_at_rest):
    """Other rows as the same version, signed by the same owner and encrypted under the same data key."""
    return build_table(tmp_path / "other", owner=table_at_rest.owner, dek=table_at_rest.dek, raises=7)
