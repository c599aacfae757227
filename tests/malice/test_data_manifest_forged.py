"""Somebody writes a manifest of their own, to have other data taken for the owner's."""

from __future__ import annotations

import dataclasses

import pytest

from strongroom.envelope.manifest import ManifestError, read_manifest, sign_manifest, verify_manifest, write_manifest
from strongroom.envelope.table import open_table
from strongroom.statements import SigningKey, Statement, sign


def fields(manifest):
    names = ("dataset", "version", "kind", "schema", "files", "custody", "wrapped_key", "created", "revision")
    return {name: getattr(manifest, name) for name in names}


@pytest.fixture
def attacker():
    return SigningKey.generate(name="owner")  # the same name: names decide nothing


def test_manifest_signed_by_somebody_else_is_refused(table_at_rest, attacker):
    forged = sign_manifest(**fields(table_at_rest.manifest), owner=attacker)
    write_manifest(table_at_rest.directory, forged)
    with pytest.raises(ManifestError, match="is signed by"):
        verify_manifest(read_manifest(table_at_rest.directory), owner=table_at_rest.owner.party)


def test_manifest_naming_the_owner_but_signed_by_somebody_else_is_refused(table_at_rest, attacker):
    import json

    payload = json.loads(table_at_rest.manifest.statement.payload)
    forged = sign(payload, kind="manifest", version=1, key=attacker)
    for owner in (table_at_rest.owner.party, attacker.party):
        with pytest.raises(ManifestError):
            verify_manifest(forged, owner=owner)


def test_signature_moved_to_another_payload_is_refused(table_at_rest):
    original = table_at_rest.manifest.statement
    changed = dataclasses.replace(original, payload=original.payload.replace(b'"version":2', b'"version":3'))
    assert changed.payload != original.payload
    with pytest.raises(ManifestError, match="signature"):
        verify_manifest(changed, owner=table_at_rest.owner.party)


def test_statement_of_another_kind_with_the_owners_signature_is_refused(table_at_rest):
    import json

    other = sign(
        json.loads(table_at_rest.manifest.statement.payload), kind="policy", version=1, key=table_at_rest.owner
    )
    relabelled = Statement(
        kind="manifest", version=1, payload=other.payload, signer=other.signer, signature=other.signature
    )
    with pytest.raises(ManifestError, match="signature"):
        verify_manifest(relabelled, owner=table_at_rest.owner.party)


def test_manifest_changed_in_memory_after_it_was_verified_is_refused(table_at_rest):
    """A workload that edits the file list to skip a check does not get past opening."""
    fewer = dataclasses.replace(table_at_rest.manifest, files=table_at_rest.manifest.files[:1])
    for entry in table_at_rest.manifest.files[1:]:
        (table_at_rest.directory / entry.path).unlink()
    with pytest.raises(ManifestError, match="differs from what its owner signed"):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=fewer)


def test_wrong_row_count_signed_by_a_careless_owner_is_refused(table_at_rest):
    first, *rest = table_at_rest.manifest.files
    wrong = {**fields(table_at_rest.manifest), "files": [dataclasses.replace(first, rows=first.rows + 1), *rest]}
    manifest = sign_manifest(**wrong, owner=table_at_rest.owner)
    with pytest.raises(ManifestError.__base__, match="500 rows, the manifest says 501"):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=manifest)


def test_wrong_schema_is_refused(table_at_rest):
    columns = list(table_at_rest.manifest.schema)
    columns[2] = dataclasses.replace(columns[2], type="string")
    manifest = sign_manifest(**{**fields(table_at_rest.manifest), "schema": columns}, owner=table_at_rest.owner)
    with pytest.raises(ManifestError.__base__, match="another schema"):
        open_table(table_at_rest.directory, table_at_rest.keys(), manifest=manifest)
