"""Build the image of all roles: Debian's files, the locked Python packages, and this package; no daemon, no registry.

``python deploy/images/build.py --base ROOT --wheels DIR --out DIR``. The inputs are files: a Debian root (such as
mmdebstrap makes from a snapshot) and the wheels of requirements.lock. The same inputs give the same digest; build twice
and compare. With ``--fetch`` the wheels are fetched first, each held to its hash in the lock.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from archive import ImageConfig, Tree, write_image
from sbom import list_distributions, list_packages, write_sbom

SOURCES = Path(__file__).parents[2]
SITE = "opt/strongroom/site"
USER = 10001
_EPOCH = 1767225600  # 2026-01-01; SOURCE_DATE_EPOCH chooses another
# What a running container never reads, or what differs from one installation of the same packages to the next.
_NOT_FROM_BASE = frozenset(
    {"proc", "sys", "dev", "run", "tmp", "var/cache", "var/lib/apt", "var/log", "usr/share/doc", "usr/share/man"}
)
_NOT_FROM_WHEELS = frozenset({"direct_url.json", "REQUESTED"})


def install(wheels: Path, lock: Path, target: Path) -> None:
    """Install the locked wheels into ``target``, from files alone; every file is held to its hash in the lock."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    command += ["--require-hashes", "--only-binary", ":all:", "--no-compile", "--no-deps", "--target", str(target)]
    subprocess.run([*command, "-r", str(lock)], check=True)


def install_own(sources: Path, target: Path) -> None:
    """Install this package into ``target`` from its sources, with its metadata, which says what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "sources"  # setuptools builds beside the sources, which stay as they are
        shutil.copytree(sources / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(sources / name, copy / name)
        wheels = Path(folder) / "wheels"
        make = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
        subprocess.run([*make, "-w", str(wheels), str(copy)], check=True)
        # By name from a folder: an installation by path would record that path.
        place = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
        subprocess.run([*place, "--no-deps", "--no-compile", "--target", str(target), "strongroom"], check=True)


def fetch(lock: Path, wheels: Path) -> None:
    """Fetch the wheels of the lock, each held to its hash."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary", ":all:"]
    subprocess.run([*command, "--no-deps", "-d", str(wheels), "-r", str(lock)], check=True)


def write_accounts(folder: Path) -> None:
    """Write the account that containers run under; Hadoop's login fails for a user id without a name."""
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    entry = f"strongroom:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin\n"
    (folder / "etc/passwd").write_text(f"root:x:0:0:root:/root:/usr/sbin/nologin\n{entry}")
    (folder / "etc/group").write_text(f"root:x:0:\nstrongroom:x:{USER}:\n")


def build(base: Path | None, site: Path, package: Path, target: Path, *, name: str, epoch: int) -> str:
    """Write the image and its SBOM; return the image's digest. Layers: Debian, dependencies, our own package."""
    with tempfile.TemporaryDirectory() as made:
        write_accounts(Path(made))
        accounts = Tree(source=Path(made))
        bottom = [accounts] if base is None else [accounts, Tree(source=base, leave_out=_NOT_FROM_BASE)]
        layers = [
            bottom,
            [Tree(source=site, target=SITE, leave_out=frozenset({"bin"}), leave_names=_NOT_FROM_WHEELS)],
            [Tree(source=package, target=SITE, leave_out=frozenset({"bin"}), leave_names=_NOT_FROM_WHEELS)],
        ]
        config = ImageConfig(
            name=name,
            user=USER,
            command=("python3", "-P", "-s", "-m", "strongroom", "--version"),
            environment={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": f"/{SITE}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
            },
            labels={"org.opencontainers.image.title": "strongroom", "org.opencontainers.image.licenses": "Apache-2.0"},
        )
        digest = write_image(target, layers, config, epoch=epoch)
    python = itertools.chain(list_distributions(site), list_distributions(package))
    components = itertools.chain(python, list_packages(base) if base is not None else ())
    write_sbom(target.with_suffix(".cdx.json"), components, image=name, digest=digest)
    return digest


def main(argv: Sequence[str] | None = None) -> int:
    """Build from the command line and print the digest."""
    parser = argparse.ArgumentParser(prog="build.py", description="Build the Strongroom image from files.")
    parser.add_argument("--base", type=Path, required=True, help="a Debian root with python3 and, for Spark, Java 17")
    parser.add_argument("--wheels", type=Path, required=True, help="the folder with the wheels of the lock")
    parser.add_argument("--fetch", action="store_true", help="fetch the wheels first, each held to its hash")
    parser.add_argument("--lock", type=Path, default=SOURCES / "requirements.lock")
    parser.add_argument("--name", default="strongroom:0.1.0")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.wheels.mkdir(parents=True, exist_ok=True)
    if asked.fetch:
        fetch(asked.lock, asked.wheels)
    made = Path(tempfile.mkdtemp(dir=asked.out, prefix=".made-"))
    try:
        install(asked.wheels, asked.lock, made / "site")
        install_own(SOURCES, made / "own")
        target = asked.out / f"{asked.name.replace(':', '-')}.oci.tar"
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))
        digest = build(asked.base, made / "site", made / "own", target, name=asked.name, epoch=epoch)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    sys.stdout.write(f"{asked.name}@{digest}\n{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
