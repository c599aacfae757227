"""What programs save, how models are described, and which Spark models are loaded."""

import json
from dataclasses import replace
from io import BytesIO

import pytest

from strongroom.envelope.files import FilesError, open_files, verify_name, write_files
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.errors import EnvelopeError, StrongroomError, UsageError
from strongroom.statements import SigningKey
from strongroom.workload.card import ModelCard
from strongroom.workload.files import InputFiles, collect_files, describe
from strongroom.workload.parcel import pack_files
from strongroom.workload.spark.models import load_model


def test_directory_is_saved_with_its_relative_names_and_without_checksums(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "metadata").write_text("{}")
    (tmp_path / ".metadata.crc").write_bytes(b"crc")
    (tmp_path / "stages" / "data").write_bytes(b"1")
    found = collect_files(tmp_path)
    assert sorted(found) == ["metadata", "stages/data"]
    assert describe(found)["stages/data"]["bytes"] == 1


def test_link_in_what_is_saved_is_refused(tmp_path):
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="link"):
        collect_files(tmp_path)


@pytest.mark.parametrize("given", [object(), {"a.json": object()}, 5, None])
def test_python_objects_are_not_saved(given):
    with pytest.raises(UsageError, match="cannot save"):
        collect_files(given)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a\\b", "a\nb", "x" * 2000, "."])
def test_names_that_lead_out_of_a_directory_are_refused(name):
    with pytest.raises(FilesError):
        verify_name(name)


@pytest.fixture
def sealed(tmp_path):
    keys = DatasetKeys.for_files(DataKey.generate(), dataset="model", version=3)
    sources = {"model.txt": lambda: BytesIO(b"tree\n" * 1000), "sub/card.json": lambda: BytesIO(b"{}")}
    manifest = pack_files(sources, tmp_path / "model", keys, signer=SigningKey.generate(name="egress"))
    return open_files(tmp_path / "model", keys, manifest=manifest)


def test_files_are_read_and_unpacked_as_they_were(sealed, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    files = InputFiles(sealed, scratch=lambda: scratch)
    assert sorted(files) == ["model.txt", "sub/card.json"]
    assert files["model.txt"].readline() == b"tree\n"
    assert (files.unpack() / "model.txt").read_bytes() == b"tree\n" * 1000
    assert files.unpack() == scratch


def test_nothing_readable_lies_in_the_encrypted_directory(sealed, tmp_path):
    for path in (tmp_path / "model").iterdir():
        assert b"tree" not in path.read_bytes()
        assert "model.txt" not in path.name


def test_files_of_hostile_names_are_not_unpacked(tmp_path):
    keys = DatasetKeys.for_files(DataKey.generate(), dataset="model", version=1)
    with pytest.raises(FilesError):
        write_files({"../../up": lambda: BytesIO(b"x")}, tmp_path / "out", keys)
    assert not (tmp_path / "out").exists()


def card():
    return ModelCard(lineage={"job": "j"}, files={"a": {"bytes": 1}}, made_with={}, said={"auc": 0.9})


def test_card_reads_back_and_its_digest_is_that_of_its_bytes():
    import hashlib

    assert ModelCard.decode(card().encode()) == card()
    assert card().digest == f"sha256:{hashlib.sha256(card().encode()).hexdigest()}"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"model_card": 2}', json.dumps({"model_card": 1}).encode()])
def test_what_is_no_card_is_refused(data):
    with pytest.raises(EnvelopeError):
        ModelCard.decode(data)


def test_card_that_json_cannot_hold_is_explained():
    with pytest.raises(UsageError, match="JSON"):
        replace(card(), said={"model": object()}).encode()


@pytest.mark.parametrize("name", ["java.lang.Runtime", "org.apache.spark.ml.Pipe;line", "org.apache.spark.mlx.Evil"])
def test_model_of_a_foreign_class_is_not_loaded(tmp_path, name):
    (tmp_path / "metadata").write_text(json.dumps({"class": name}))
    with pytest.raises(StrongroomError, match="not Spark's own"):
        load_model(None, tmp_path)


def test_directory_without_metadata_is_no_model(tmp_path):
    with pytest.raises(StrongroomError, match="no Spark ML model"):
        load_model(None, tmp_path)
