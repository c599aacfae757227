"""A directory of files becomes an encrypted dataset; the storage learns neither contents nor names."""

from __future__ import annotations

import os

import pytest

from strongroom.envelope.container import SMALL_SEGMENT_BYTES
from strongroom.envelope.files import FilesError, encrypt_files, open_files
from strongroom.envelope.manifest import ManifestError, read_manifest, verify_manifest
from strongroom.envelope.table import open_table


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "scans"
    (folder / "2024").mkdir(parents=True)
    (folder / "jane doe.dcm").write_bytes(b"marker" * 1000)
    (folder / "2024" / "zoë.png").write_bytes(os.urandom(200_000))
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def encrypt(tmp_path, owner, custody):
    def run(source, **options):
        return encrypt_files(
            source, tmp_path / "out", dataset="scans", version=1, owner=owner, custody=custody, **options
        )

    return run


def test_files_round_trip_under_their_own_names(tmp_path, source, encrypt, custody, owner):
    manifest = encrypt(source, segment_size=SMALL_SEGMENT_BYTES)
    assert verify_manifest(read_manifest(tmp_path / "out"), owner=owner.party) == manifest
    files = open_files(tmp_path / "out", custody.release(manifest), manifest=manifest)
    assert dict(files) == {"2024/zoë.png": 200_000, "empty": 0, "jane doe.dcm": 6000}
    for name in files:
        with files.open(name) as reader:
            assert reader.read() == (source / name).read_bytes()


def test_storage_sees_neither_names_nor_contents(tmp_path, source, encrypt):
    encrypt(source)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["file-000000.sealed", "file-000001.sealed", "file-000002.sealed", "index.sealed", "manifest.json"]
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for plain in (b"jane", "zoë".encode(), b"marker"):
        assert plain not in stored


def test_progress_reaches_the_total(source, encrypt):
    seen = []
    encrypt(source, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (206_000, 206_000)
    assert len(seen) == 3


def test_unknown_name_is_refused(tmp_path, source, encrypt, custody):
    manifest = encrypt(source)
    files = open_files(tmp_path / "out", custody.release(manifest), manifest=manifest)
    with pytest.raises(FilesError, match="no file 'john'"):
        files.open("john")


def test_link_is_refused_rather_than_followed(tmp_path, source, encrypt):
    """A link could lead out of the directory that the owner meant to encrypt."""
    (source / "shadow").symlink_to("/etc/shadow")
    with pytest.raises(FilesError, match="'shadow' is a link"):
        encrypt(source)
    assert not (tmp_path / "out").exists()


def test_empty_or_missing_directory_is_refused(tmp_path, encrypt):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        with pytest.raises(FilesError):
            encrypt(tmp_path / name)


def test_files_do_not_open_as_a_table(tmp_path, source, encrypt, custody):
    manifest = encrypt(source)
    with pytest.raises(ManifestError, match="files"):
        open_table(tmp_path / "out", custody.release(manifest), manifest=manifest)
