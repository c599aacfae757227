"""A manifest is what its owner signed, or it is refused; moving its key to another custody rewrites no data."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from strongroom.envelope.custody import CustodyError
from strongroom.envelope.keys import DataKey
from strongroom.envelope.manifest import (
    Column,
    FileEntry,
    ManifestError,
    custody_context,
    manifest_schema,
    read_manifest,
    rewrap,
    sign_manifest,
    unwrap_data_key,
    verify_manifest,
    write_manifest,
)
from strongroom.statements import sign

DIGEST = "sha256:" + "ab" * 32
FILE = FileEntry(path="part-00000.parquet", size=1000, sha256=DIGEST, footer_digest=DIGEST, rows=5)


def build(owner, **changes):
    fields = {
        "dataset": "flights",
        "version": 3,
        "kind": "table",
        "schema": [Column(name="a", type="int64")],
        "files": [FILE],
        "custody": "memory:owner",
        "wrapped_key": "none",
        "created": datetime(2024, 5, 1, 12, tzinfo=UTC),
        "owner": owner,
    }
    return sign_manifest(**{**fields, **changes})


def payload(signer, /, **changes):
    document = {
        "dataset": "flights",
        "version": 3,
        "revision": 1,
        "owner": str(signer.party),
        "kind": "table",
        "schema": [{"name": "a", "type": "int64"}],
        "files": [{"path": "p", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}],
        "custody": "memory:owner",
        "wrapped_key": "none",
        "created": "2024-05-01T12:00:00Z",
    }
    return {key: value for key, value in {**document, **changes}.items() if value is not ...}


def test_manifest_round_trips_through_its_file(tmp_path, owner):
    manifest = build(owner)
    write_manifest(tmp_path, manifest)
    again = verify_manifest(read_manifest(tmp_path), owner=owner.party)
    assert again == manifest
    assert (again.rows, again.size, again.columns, again.revision) == (5, 1000, ("a",), 1)
    assert again.digest.startswith("sha256:")


def test_manifest_is_verified_with_the_owners_public_key_as_well(owner):
    manifest = build(owner)
    assert verify_manifest(manifest.statement, owner=owner.public) == manifest


def test_well_formed_payload_is_the_baseline_of_the_refusals_below(owner):
    verify_manifest(sign(payload(owner), kind="manifest", version=1, key=owner), owner=owner.party)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "a b"},
        {"dataset": ...},
        {"version": 0},
        {"version": "3"},
        {"version": 3.5},
        {"revision": 0},
        {"owner": "nobody"},
        {"kind": "view"},
        {"kind": "files"},
        {"schema": []},
        {"schema": [{"name": "a", "type": "int64"}, {"name": "a", "type": "int64"}]},
        {"schema": [{"name": "a;b", "type": "int64"}]},
        {"files": []},
        {"files": [{"path": "../p", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}]},
        {"files": [{"path": "/p", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}]},
        {"files": [{"path": "a/p", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}]},
        {"files": [{"path": "..", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}]},
        {"files": [{"path": "manifest.json", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}]},
        {"files": [{"path": "p", "size": -1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}]},
        {"files": [{"path": "p", "size": 1, "sha256": "md5:00", "footer_digest": DIGEST, "rows": 5}]},
        {"files": [{"path": "p", "size": 1, "sha256": DIGEST, "rows": 5}]},
        {"files": [{"path": "p", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST}]},
        {"files": [{"path": "p", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5}] * 2},
        {"files": [{"path": "p", "size": 1, "sha256": DIGEST, "footer_digest": DIGEST, "rows": 5, "url": "x"}]},
        {"created": "2024-13-01T12:00:00Z"},
        {"created": "yesterday"},
        {"wrapped_key": ""},
        {"more": 1},
    ],
)
def test_malformed_manifest_is_refused_though_its_owner_signed_it(owner, changes):
    statement = sign(payload(owner, **changes), kind="manifest", version=1, key=owner)
    with pytest.raises(ManifestError):
        verify_manifest(statement, owner=owner.party)


def test_statement_of_another_kind_is_no_manifest(owner):
    for kind, version in (("policy", 1), ("manifest", 2)):
        with pytest.raises(ManifestError):
            verify_manifest(sign(payload(owner), kind=kind, version=version, key=owner), owner=owner.party)


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff\xfe", b"[" * 100_000, b"x" * (5 << 20)])
def test_file_that_is_no_statement_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(ManifestError, match="not a signed manifest"):
        read_manifest(tmp_path)


def test_directory_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="cannot read") as refused:
        read_manifest(tmp_path)
    assert "strongroom encrypt" in refused.value.hint


def test_time_without_a_zone_is_refused(owner):
    with pytest.raises(ManifestError, match="time zone"):
        build(owner, created=datetime(2024, 5, 1))  # noqa: DTZ001


def test_manifest_too_long_to_read_back_is_not_written(owner):
    files = [dataclasses.replace(FILE, path=f"part-{i:05d}.parquet") for i in range(15_000)]
    with pytest.raises(ManifestError, match="over 4194304 bytes"):
        build(owner, files=files)


def test_rewrap_moves_the_key_and_nothing_else(owner, custody, other_custody):
    dek = DataKey.generate()
    manifest = build(owner, wrapped_key=custody.wrap(dek, context=custody_context("flights", 3)))
    moved = rewrap(manifest, old=custody, new=other_custody, owner=owner)
    assert (moved.revision, moved.custody) == (2, "memory:other")
    assert (moved.files, moved.schema, moved.version) == (manifest.files, manifest.schema, manifest.version)
    assert unwrap_data_key(moved, custody=other_custody) == dek
    with pytest.raises(CustodyError):
        unwrap_data_key(moved, custody=custody)
    assert (custody.unwraps, other_custody.wraps) == (2, 1)


def test_rewrap_of_somebody_elses_manifest_is_refused(owner, stranger, custody, other_custody):
    with pytest.raises(ManifestError, match="signed by"):
        rewrap(build(owner), old=custody, new=other_custody, owner=stranger)


def test_data_key_is_bound_to_dataset_and_version(owner, custody):
    """A wrapped key copied into another manifest of the same owner must not open."""
    wrapped = custody.wrap(DataKey.generate(), context=custody_context("flights", 3))
    for changes in ({"version": 4}, {"dataset": "trains"}):
        with pytest.raises(CustodyError):
            unwrap_data_key(build(owner, wrapped_key=wrapped, **changes), custody=custody)


def test_schema_of_the_document_is_exported():
    schema = manifest_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(schema["properties"])
