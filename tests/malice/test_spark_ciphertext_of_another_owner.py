"""An owner signs for a copy of another owner's ciphertext, to have it read under its own policy."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.envelope.manifest import sign_manifest, write_manifest
from strongroom.errors import StrongroomError
from strongroom.statements import SigningKey
from strongroom.workload.engines import SparkJobEngine, input_manifest
from strongroom.workload.keyring import KeyRing


def engine_over(name, location, owner, ring):
    """Return a Spark engine with one input, before anything of Spark was started."""
    engine = SparkJobEngine.__new__(SparkJobEngine)
    wanted = SimpleNamespace(owner=owner, location=str(location))
    manifest = input_manifest(wanted, keys=ring.dataset(name), content=ring.content(name))
    engine.spec, engine.ring = SimpleNamespace(inputs={name: wanted}), ring
    engine.manifests, engine.tables, engine.columns = {name: manifest}, (name,), {name: manifest.columns}
    return engine


def test_table_under_its_own_keys_is_accepted(table_at_rest):
    ring, keys = KeyRing(), table_at_rest.keys()
    ring.hold({"people": keys}, contents={"people": table_at_rest.manifest.content}, output=None)
    engine_over("people", table_at_rest.directory, table_at_rest.owner.party, ring)._verify_tables()


def test_copied_ciphertext_is_refused_although_its_key_is_in_the_same_ring(table_at_rest, tmp_path):
    thief, copy = SigningKey.generate(name="thief"), tmp_path / "mine"
    shutil.copytree(table_at_rest.directory, copy)
    manifest = sign_manifest(
        dataset="mine",
        version=1,
        kind="table",
        schema=table_at_rest.manifest.schema,
        files=table_at_rest.manifest.files,
        custody="memory:thief",
        wrapped_key="none",
        created=datetime(2024, 5, 3, tzinfo=UTC),
        owner=thief,
    )
    (copy / "manifest.json").unlink(missing_ok=True)
    write_manifest(copy, manifest)
    mine = DatasetKeys.from_dek(DataKey.generate(), dataset="mine", version=1, columns=manifest.columns)
    ring = KeyRing()
    contents = {"people": table_at_rest.manifest.content, "mine": manifest.content}
    ring.hold({"people": table_at_rest.keys(), "mine": mine}, contents=contents, output=None)
    assert ring.find("people@2/footer") is not None  # what an executor would be given for the copied file
    with pytest.raises(StrongroomError):
        engine_over("mine", copy, thief.party, ring)._verify_tables()
