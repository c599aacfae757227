"""An owner registers one set of rows, and later puts others there: same version, same key, its own signature."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.manifest import Manifest, sign_manifest, write_manifest
from strongroom.workload.engines import input_manifest


def input_at(data):
    return SimpleNamespace(owner=data.owner.party, location=str(data.directory))


def sign_again(data, **changes) -> Manifest:
    old = data.manifest
    named = {"files": old.files, "custody": old.custody, "wrapped_key": old.wrapped_key} | changes
    return sign_manifest(
        dataset=old.dataset,
        version=old.version,
        kind=old.kind,
        schema=old.schema,
        created=old.created,
        owner=data.owner,
        revision=old.revision + 1,
        **named,
    )


def test_registered_data_is_what_a_job_reads(table_at_rest):
    content = table_at_rest.manifest.content
    assert input_manifest(input_at(table_at_rest), keys=table_at_rest.keys(), content=content).content == content


def test_other_rows_signed_by_the_owner_as_the_same_version_are_refused(table_at_rest, other_rows):
    assert (other_rows.manifest.dataset, other_rows.manifest.version) == ("people", 2)
    with pytest.raises(TamperedDataError, match="other data than the owner registered as people@2") as refused:
        input_manifest(input_at(other_rows), keys=other_rows.keys(), content=table_at_rest.manifest.content)
    assert "new version" in refused.value.hint


def test_fewer_files_signed_again_are_refused(table_at_rest):
    write_manifest(table_at_rest.directory, sign_again(table_at_rest, files=table_at_rest.manifest.files[1:]))
    with pytest.raises(TamperedDataError):
        input_manifest(input_at(table_at_rest), keys=table_at_rest.keys(), content=table_at_rest.manifest.content)


def test_the_same_data_under_another_master_key_stays_the_same_data(table_at_rest):
    moved = sign_again(table_at_rest, custody="memory:elsewhere", wrapped_key="other")
    write_manifest(table_at_rest.directory, moved)
    content = table_at_rest.manifest.content
    assert moved.digest != table_at_rest.manifest.digest
    assert input_manifest(input_at(table_at_rest), keys=table_at_rest.keys(), content=content) == moved
