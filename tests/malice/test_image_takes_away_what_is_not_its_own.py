"""An image's publisher writes a layer that takes away, or puts, files of whoever only wants to know its measurement."""

import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc

import pytest

from strongroom.attestation import images
from strongroom.attestation.images import ImageError, read_image


def add(tar, name, data=b"", *, link=""):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    if link:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
    tar.addfile(entry, io.BytesIO(data))


def publish(target, *entries):
    """Write an image of one layer whose digests are all in order."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for entry in entries:
            add(tar, entry[0], link=entry[1])
    blobs = {}

    def keep(data, kind):
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(data)}

    packed = keep(gzip.compress(layer.getvalue()), "layer.v1.tar+gzip")
    diff = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = keep(json.dumps({"rootfs": {"diff_ids": [diff]}}).encode(), "config.v1+json")
    manifest = keep(json.dumps({"config": config, "layers": [packed]}).encode(), "manifest.v1+json")
    with tarfile.open(target, "w") as tar:
        add(tar, "index.json", json.dumps({"manifests": [manifest]}).encode())
        for digest, data in blobs.items():
            add(tar, f"blobs/sha256/{digest.partition(':')[2]}", data)
    return target


@pytest.mark.parametrize(
    "entries",
    [
        [(".wh...", "")],
        [("a/../.wh...", "")],
        [("/.wh...", "")],
        [(".wh..", "")],
        [(".wh.", "")],
        [("../beside", "")],
        [("link", ".."), ("link/.wh.beside", "")],
        [("link", ".."), ("link/beside", "")],
    ],
)
def test_layer_reaches_nothing_outside_the_folder_that_it_is_read_into(tmp_path, entries):
    home = tmp_path / "home"
    root = home / "root"
    root.mkdir(parents=True)
    (home / "beside").write_text("not of the image")
    with pytest.raises(ImageError, match="leads elsewhere"):
        read_image(publish(tmp_path / "image.tar", *entries), into=root, wanted=lambda _name: True)
    assert (home / "beside").read_text() == "not of the image"
    assert root.is_dir()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_header_that_would_fill_the_memory_is_not_read(tmp_path, kind):
    """Attack: a gigabyte of name, which packs into a megabyte, is read whole before anything is looked at."""
    header = tarfile.TarInfo("name")
    header.type, header.size = kind, 1 << 30
    with (tmp_path / "image.tar").open("wb") as stream:
        stream.write(header.tobuf())
        stream.truncate(header.size + 4096)  # sparse: nothing of it is on the disk
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="a header of 1073741824 bytes"):
            read_image(tmp_path / "image.tar", into=tmp_path / "root", wanted=lambda _name: True)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_layer_of_endless_members_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_MEMBERS", 100)
    entries = [(f"name{number}", "") for number in range(101)]
    with pytest.raises(ImageError, match="more than 100 members"):
        read_image(publish(tmp_path / "image.tar", *entries), into=tmp_path / "root", wanted=lambda _name: False)


def test_layer_takes_away_what_those_below_it_had(tmp_path):
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/c").write_text("of a layer below")
    read_image(publish(tmp_path / "i.tar", ("a/.wh.c", "")), into=tmp_path / "root", wanted=lambda _name: True)
    assert [one.name for one in (tmp_path / "root/a").iterdir()] == ["b"]
    read_image(publish(tmp_path / "j.tar", ("a/.wh..wh..opq", "")), into=tmp_path / "root", wanted=lambda _name: True)
    assert not (tmp_path / "root/a").exists()
