"""The same files give the same image, whenever, wherever and by whomever it is built."""

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "deploy" / "images"
sys.path.insert(0, str(IMAGES))

from archive import ImageConfig, Tree, write_image, write_layer  # noqa: E402
from build import SITE, USER, build, install_own  # noqa: E402

EPOCH = 1767225600


def plant(folder: Path, *, reverse: bool = False) -> Path:
    """Make a small tree; in reverse, with the same content made in another order, at another time, by another umask."""
    files = {"bin/run": b"#!/bin/sh\n", "lib/a.py": b"a = 1\n", "lib/deep/b.txt": b"b" * 70000, "z": b""}
    for name, data in sorted(files.items(), reverse=reverse):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755 if name.startswith("bin") else (0o600 if reverse else 0o664))
        os.utime(path, (1_000_000 + reverse, 1_000_000 + reverse))
    (folder / "link").symlink_to("bin/run")
    (folder / "lib/__pycache__").mkdir()
    (folder / "lib/__pycache__/a.pyc").write_bytes(os.urandom(8))
    return folder


def read_image(path: Path) -> tuple[dict, dict, list[tarfile.TarInfo]]:
    with tarfile.open(path) as image:
        parts = {entry.name: image.extractfile(entry).read() for entry in image}
    for name, data in parts.items():
        if name.startswith("blobs/"):
            assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2]
    (manifest,) = json.loads(parts["index.json"])["manifests"]
    manifest = json.loads(parts[f"blobs/sha256/{manifest['digest'][7:]}"])
    config = json.loads(parts[f"blobs/sha256/{manifest['config']['digest'][7:]}"])
    entries = []
    for layer in manifest["layers"]:
        data = parts[f"blobs/sha256/{layer['digest'][7:]}"]
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            entries += tar.getmembers()
    return manifest, config, entries


def test_same_content_gives_the_same_bytes(tmp_path):
    config = ImageConfig(name="test:1", user=USER)
    for number, reverse in enumerate((False, True)):
        tree = plant(tmp_path / f"tree-{number}", reverse=reverse)
        write_image(tmp_path / f"{number}.tar", [[Tree(source=tree, target="opt/app")]], config, epoch=EPOCH)
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()


def test_one_changed_byte_gives_another_digest(tmp_path):
    config = ImageConfig(name="test:1", user=USER)
    tree = plant(tmp_path / "tree")
    digests = set()
    for content in (b"a = 1\n", b"a = 2\n"):
        (tree / "lib/a.py").write_bytes(content)
        digests.add(write_image(tmp_path / "i.tar", [[Tree(source=tree)]], config, epoch=EPOCH))
    assert len(digests) == 2


def test_image_is_well_formed_and_says_what_it_holds(tmp_path):
    site, package = tmp_path / "site", plant(tmp_path / "package")
    (site / "rich-14.0.dist-info").mkdir(parents=True)
    (site / "rich-14.0.dist-info/METADATA").write_text("Name: Rich\nVersion: 14.0\nLicense-Expression: MIT\n")
    base = tmp_path / "base"
    (base / "var/lib/dpkg").mkdir(parents=True)
    paragraph = "Package: python3\nStatus: install ok installed\nVersion: 3.13.5-1\nArchitecture: amd64\n\n"
    (base / "var/lib/dpkg/status").write_text(paragraph)
    (base / "var/log").mkdir()
    (base / "var/log/install.log").write_text("today")
    (base / "usr/bin").mkdir(parents=True)
    (base / "usr/bin/su").write_bytes(b"x")
    (base / "usr/bin/su").chmod(0o4755)
    target = tmp_path / "image.oci.tar"
    digest = build(base, site, package, target, name="strongroom:1", epoch=EPOCH)
    manifest, config, entries = read_image(target)
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == 3
    assert config["config"]["User"] == f"{USER}:{USER}"
    names = {entry.name for entry in entries}
    assert f"{SITE}/lib/a.py" in names
    assert not any(name.endswith(".pyc") or "var/log" in name or name == "usr/bin/su" for name in names)
    assert {entry.mtime for entry in entries} == {EPOCH}
    assert all(entry.mode & 0o6022 == 0 for entry in entries if not entry.issym())
    listed = json.loads((tmp_path / "image.oci.cdx.json").read_text())
    assert [one["purl"] for one in listed["components"]] == [
        "pkg:deb/debian/python3@3.13.5-1?arch=amd64",
        "pkg:pypi/rich@14.0",
    ]
    assert listed["metadata"]["component"]["bom-ref"] == digest


def test_account_of_containers_has_a_name(tmp_path):
    target = tmp_path / "i.oci.tar"
    (tmp_path / "empty").mkdir()
    build(None, tmp_path / "empty", tmp_path / "empty", target, name="strongroom:1", epoch=EPOCH)
    _, _, entries = read_image(target)
    assert {"etc/passwd", "etc/group"} <= {entry.name for entry in entries}


def test_failed_build_leaves_no_image(tmp_path):
    tree = plant(tmp_path / "tree")
    target = tmp_path / "missing" / "i.tar"
    with pytest.raises(OSError, match="missing"):
        write_image(target, [[Tree(source=tree)]], ImageConfig(name="x:1", user=USER), epoch=EPOCH)
    assert not target.exists()


def test_our_own_package_is_installed_alike_twice(tmp_path):
    """The measured dependencies follow from the package's metadata, so it must be there, and always the same."""
    sources = IMAGES.parents[1]
    layers = []
    for number in range(2):
        install_own(sources, tmp_path / str(number))
        tree = Tree(
            source=tmp_path / str(number), leave_out=frozenset({"bin"}), leave_names=frozenset({"direct_url.json"})
        )
        layers.append(write_layer([tree], epoch=EPOCH))
    (first, _), (second, _) = layers
    assert first.digest == second.digest
    assert (tmp_path / "0/strongroom/__init__.py").is_file()
    assert list((tmp_path / "0").glob("strongroom-*.dist-info/METADATA"))
