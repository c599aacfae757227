"""Install the locked Python packages of an image: those that its roles import, for its interpreter, and no others.

Wheels are chosen for the image's Python and platform, not the builder's. What comes as sources only (pyspark) is made
into a wheel here, anew each time, from the locked file. The records of what was installed are settled, so that neither
the builder's paths nor what was left out stands in them; the simulated TEE measures those records.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PYTHON = "3.11"
# Debian 12's C library is 2.36; a wheel for an older one runs on it.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)
_MARKERS = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.2",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}
# Tests, headers, sources, stubs and static libraries are read by no running job.
_LEFT_OUT = (
    *(
        "pyarrow/tests/*",
        "pyarrow/include/*",
        "pyarrow/src/*",
        "pandas/tests/*",
        "numpy/*/tests/*",
        "pyspark/*/tests/*",
    ),
    *("*.pxd", "*.pyx", "*.pxi", "*.pyi", "*.a", "*.lib", "*.h", "*.hpp", "*.inc"),
    *(
        "pyarrow/libarrow_flight.so*",
        "pyarrow/libarrow_python_flight.so*",
        "pyarrow/_flight.*",
        "pyarrow/flight.py",
    ),  # a network protocol of its own
    *(
        "pyspark/examples/*",
        "pyspark/data/*",
        "pyspark/sbin/*",
        "pyspark/bin/*",
    ),  # shell scripts; we start Java ourselves
)
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_OWN = re.compile(r"(^|/)(INSTALLER|REQUESTED|direct_url\.json)$")


def name_of(text: str) -> str:
    """Return a distribution's name in its canonical spelling."""
    return re.sub(r"[-_.]+", "-", text).lower()


def needed(pyproject: Path, extras: Iterable[str]) -> frozenset[str]:
    """Return the distributions that this package needs with ``extras``, found in the environment that builds."""
    project = tomllib.loads(pyproject.read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    waiting = [(Requirement(text), "") for text in wanted]
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, of_extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({**_MARKERS, "extra": of_extra}):
            continue
        name, chosen = name_of(requirement.name), frozenset(requirement.extras)
        if (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        found.add(name)
        try:
            further = metadata.requires(name) or ()
        except metadata.PackageNotFoundError as error:
            raise LookupError(
                f"{name} is not installed here; run scripts/setup --dev, which installs the lock"
            ) from error
        for text in further:
            waiting += [(Requirement(text), extra) for extra in ("", *chosen)]
    return frozenset(found)


def narrow(lock: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the entries of a hash-locked requirements file for ``names``; raise LookupError for one that it lacks."""
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text())
    by_name = {name_of(re.split(r"[=\s;\[]", entry, maxsplit=1)[0]): entry for entry in entries if "==" in entry}
    lost = sorted(set(names) - by_name.keys())
    if lost:
        raise LookupError(f"{lock.name} does not lock {', '.join(lost)}; make it anew as docs/how-to/develop.md says")
    return {name: by_name[name] for name in sorted(names)}


def fetch(entries: dict[str, str], sources_only: Iterable[str], folder: Path) -> None:
    """Fetch wheels, each held to its hash, and make those of ``sources_only`` from their locked sources."""
    apart = set(sources_only) & entries.keys()
    have = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.whl")}
    lost = [text for name, text in entries.items() if name not in apart and not have & set(_HASH.findall(text))]
    with tempfile.TemporaryDirectory() as place:
        lock = Path(place) / "wheels.txt"
        lock.write_text("".join(lost))
        if lost:
            _pip(
                "download",
                "--require-hashes",
                "--only-binary",
                ":all:",
                "--no-deps",
                *_target(),
                "-d",
                folder,
                "-r",
                lock,
            )
        for name in sorted(apart):
            _make(name, entries[name], folder, lock)


def _make(name: str, entry: str, folder: Path, lock: Path) -> None:
    """Make a wheel of the locked sources, which are kept; a wheel that lies there has no hash to be held to."""
    for stale in folder.glob(f"{name.replace('-', '_')}-*.whl"):
        stale.unlink()
    lock.write_text(entry)
    common = ("--require-hashes", "--no-deps", "--no-build-isolation", "--no-binary", name, "-r", lock)
    locked = set(_HASH.findall(entry))
    kept = [path for path in folder.glob("*.tar.gz") if hashlib.sha256(path.read_bytes()).hexdigest() in locked]
    if not kept:
        _pip("download", *common, "-d", folder)
    _pip("wheel", "--no-index", "--find-links", folder, *common, "-w", folder)


def install(entries: dict[str, str], sources_only: Iterable[str], folder: Path, target: Path) -> None:
    """Install from ``folder`` into ``target``, from files alone; every locked wheel is held to its hash again."""
    apart = set(sources_only) & entries.keys()
    common = ("--no-index", "--find-links", folder, "--no-deps", "--no-compile", "--only-binary", ":all:")
    with tempfile.TemporaryDirectory() as place:
        lock = Path(place) / "wheels.txt"
        lock.write_text("".join(entries[name] for name in entries if name not in apart))
        _pip("install", *common, "--require-hashes", *_target(), "--target", target, "-r", lock)
    for name in sorted(apart):
        _pip("install", *common, "--target", target, re.split(r"[\s;]", entries[name], maxsplit=1)[0])


def install_own(sources: Path, target: Path) -> None:
    """Install this package into ``target`` from its sources, with its metadata, which says what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "sources"  # setuptools builds beside the sources, which stay as they are
        shutil.copytree(sources / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(sources / name, copy / name)
        wheels = Path(folder) / "wheels"
        _pip("wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", wheels, copy)
        # By name from a folder: an installation by path would record that path.
        _pip(
            "install",
            "--no-index",
            "--find-links",
            wheels,
            "--no-deps",
            "--no-compile",
            "--target",
            target,
            "strongroom",
        )
    settle(target)


def settle(site: Path, *, unused_jars: Iterable[str] = ()) -> None:
    """Leave out what no job reads, and let every RECORD name exactly what is there, in order, without scripts."""
    shutil.rmtree(site / "bin", ignore_errors=True)
    patterns = (*_LEFT_OUT, *(f"pyspark/jars/{jar}*" for jar in unused_jars))
    for path in sorted(site.rglob("*"), reverse=True):
        name = path.relative_to(site).as_posix()
        if path.is_dir() and not path.is_symlink():
            if path.name == "__pycache__" or not any(path.iterdir()):
                shutil.rmtree(path)
        elif _OWN.search(name) or any(fnmatch(name, one) for one in patterns):
            path.unlink()
    for record in site.glob("*.dist-info/RECORD"):
        lines = [
            line for line in record.read_text().splitlines() if (site / line.rsplit(",", 2)[0].strip('"')).is_file()
        ]
        lines = [line for line in lines if not line.startswith(("/", "../"))]
        record.write_text("".join(f"{line}\n" for line in sorted(lines)))


def _target() -> tuple[str, ...]:
    chosen = (
        "--python-version",
        PYTHON,
        "--implementation",
        "cp",
        "--abi",
        f"cp{PYTHON.replace('.', '')}",
        "--abi",
        "abi3",
    )
    return (*chosen, "--abi", "none", *(word for one in PLATFORMS for word in ("--platform", one)))


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq"]
    subprocess.run([*command, *map(str, arguments)], check=True)
