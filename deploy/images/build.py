"""Build the images from locked files: Debian packages, Python packages, this package; no daemon, registry or root.

``python deploy/images/build.py [VARIANT]... --out DIR``. What is fetched is kept in ``--cache`` and held to the locks.
The same locks and sources give the same digest, wherever and whenever they are built: build twice and compare.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import debian
import java
import wheels
from archive import ImageConfig, Tree, write_image
from sbom import list_distributions, list_packages, write_sbom
from variants import JDK, VARIANTS, Variant

from strongroom.attestation.images import read_image

SOURCES = Path(__file__).parents[2]
LOCK = Path(__file__).parent / "debian.lock"
SITE = "usr/local/lib/python3.11/dist-packages"  # where the interpreter looks by itself: no variable is needed
USER = 10001
NAME = "localhost/strongroom"  # a name that a node never looks for elsewhere
ENTRY = ("python3", "-P", "-s", "-m", "strongroom")
_EPOCH = 1767225600  # 2026-01-01; SOURCE_DATE_EPOCH chooses another
_FROM_SOURCES = ("pyspark",)  # what has no wheel in the registry


def write_accounts(root: Path) -> None:
    """Write the account that containers run under, since Hadoop's login fails for one without a name, and look-ups."""
    (root / "etc").mkdir(parents=True, exist_ok=True)
    entry = f"strongroom:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin\n"
    (root / "etc/passwd").write_text(f"root:x:0:0:root:/root:/usr/sbin/nologin\n{entry}")
    (root / "etc/group").write_text(f"root:x:0:\nstrongroom:x:{USER}:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")


def make_trees(variant: Variant, packages: Iterable[debian.Package], cache: Path, made: Path) -> dict[str, Path]:
    """Fetch and unpack everything of one image below ``made``; return the folder of each component."""
    pinned = {one.name: one for one in packages}
    wanted = [pinned[name] for name in variant.packages]
    jdk = [pinned[name] for name in JDK] if variant.java else []
    debian.fetch([*wanted, *jdk], cache / "debian")
    trees = {name: made / name for name in ("debian", "java", "site", "own")}
    trees["debian"].mkdir()
    debian.unpack(wanted, cache / "debian", trees["debian"])
    write_accounts(trees["debian"])
    if variant.java:
        java.link(jdk, cache / "debian", made)
    else:
        del trees["java"]
    entries = wheels.narrow(SOURCES / variant.lock, wheels.needed(SOURCES / "pyproject.toml", variant.extras))
    (cache / "wheels").mkdir(parents=True, exist_ok=True)
    wheels.fetch(entries, _FROM_SOURCES, cache / "wheels")
    wheels.install(entries, _FROM_SOURCES, cache / "wheels", trees["site"])
    wheels.settle(trees["site"], unused_jars=_unused_jars())
    wheels.install_own(SOURCES, trees["own"])
    return trees


def write(trees: Mapping[str, Path], target: Path, *, name: str, epoch: int) -> str:
    """Write the image and its SBOM; return its digest. Layers: Debian, Java, dependencies, our own package."""
    layers = [[Tree(source=path, target=SITE if part in {"site", "own"} else "")] for part, path in trees.items()]
    config = ImageConfig(
        name=name,
        user=USER,
        entrypoint=ENTRY,
        command=("--version",),
        environment={
            "PATH": "/usr/bin",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        },
        labels={"org.opencontainers.image.title": "strongroom", "org.opencontainers.image.licenses": "Apache-2.0"},
    )
    digest = write_image(target, layers, config, epoch=epoch)
    python = itertools.chain(list_distributions(trees["site"]), list_distributions(trees["own"]))
    write_sbom(
        target.with_suffix(".cdx.json"),
        itertools.chain(python, list_packages(trees["debian"])),
        image=name,
        digest=digest,
    )
    return digest


def build(variant: str, *, cache: Path, out: Path, packages: Iterable[debian.Package], epoch: int) -> dict[str, object]:
    """Build one image into ``out``; return its name, digest, archive and the bytes of each component."""
    out.mkdir(parents=True, exist_ok=True)
    name = f"{NAME}-{variant}:{_version()}"
    target = out / f"strongroom-{variant}-{_version()}.oci.tar"
    made = Path(tempfile.mkdtemp(dir=out, prefix=".made-"))
    try:
        trees = make_trees(VARIANTS[variant], packages, cache, made)
        digest = write(trees, target, name=name, epoch=epoch)
        sizes = {part: _size(path) for part, path in trees.items()}
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return {
        "image": name,
        "digest": digest,
        "archive": str(target),
        "bytes": target.stat().st_size,
        "unpacked": sizes,
    }


def _unused_jars() -> tuple[str, ...]:
    from strongroom.workload.spark.jvm import UNUSED_JARS

    return UNUSED_JARS


def _version() -> str:
    return str(tomllib.loads((SOURCES / "pyproject.toml").read_text())["project"]["version"])


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main(argv: Sequence[str] | None = None) -> int:
    """Build from the command line; print each image's digest and sizes."""
    parser = argparse.ArgumentParser(prog="scripts/image", description="Build the Strongroom images from locked files.")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"{', '.join(VARIANTS)}; without: core")
    parser.add_argument("--out", type=Path, default=SOURCES / "dist", help="where the archives go (default: dist/)")
    parser.add_argument("--cache", type=Path, default=SOURCES / "build/images", help="where fetched files are kept")
    parser.add_argument("--lock", type=Path, default=LOCK, help="the lock of the Debian packages")
    parser.add_argument("--unpack", type=Path, metavar="DIR", help="also lay the image's files out in DIR")
    parser.add_argument("--relock", action="store_true", help="pin the newest Debian packages first")
    parser.add_argument("--json", action="store_true", help="one JSON object per image")
    asked = parser.parse_args(argv)
    unknown = sorted(set(asked.variants) - VARIANTS.keys())
    if unknown:
        parser.error(f"no image is called {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))
    try:
        if asked.relock:
            names = {name for one in VARIANTS.values() for name in one.packages} | set(JDK)
            debian.write_lock(asked.lock, debian.pin(sorted(names), asked.cache / "debian"))
        packages = debian.read_lock(asked.lock)
        for variant in asked.variants or ["core"]:
            built = build(variant, cache=asked.cache, out=asked.out, packages=packages, epoch=epoch)
            if asked.unpack is not None:
                read_image(Path(str(built["archive"])), into=asked.unpack, wanted=lambda _name: True)
            sys.stdout.write(f"{json.dumps(built)}\n" if asked.json else _describe(built))
    except (debian.PackageError, LookupError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _describe(built: Mapping[str, object]) -> str:
    unpacked = built["unpacked"]
    parts = ", ".join(f"{part} {size / 1e6:.0f} MB" for part, size in unpacked.items())  # type: ignore[attr-defined]
    return f"{built['image']}@{built['digest']}\n{built['archive']}: {built['bytes'] / 1e6:.0f} MB ({parts} unpacked)\n"  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
