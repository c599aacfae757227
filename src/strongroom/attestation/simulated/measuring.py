"""Measure what a simulated TEE is about to start: our code, the interpreter, the dependencies, the entry point.

The tree that was measured is copied into the platform's own directory and run from there, so that nothing can be
changed between measuring and running, and no stale bytecode or stray file beside the package is ever executed.
Dependencies are measured as their installers recorded them (RECORD); their bytes are not read again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import strongroom
from strongroom.attestation.evidence import sgx_measurement, tdx_measurement
from strongroom.attestation.roles import Role
from strongroom.digests import digest, digest384
from strongroom.errors import UsageError

PACKAGE = "strongroom"
ENTRY = {
    Role.BROKER: "strongroom.broker",
    Role.DRIVER: "strongroom.workload.driver",
    Role.WORKER: "strongroom.workload.worker",
    Role.EGRESS: "strongroom.egress",
    Role.ENDPOINT: "strongroom.serving",
}

_SHARED_PYTHON = re.compile(rb"libpython3\.\d+[a-z]*\.so")
_ZERO_REGISTER = bytes(48)
# Tests and plots, and what parties use at home, never run inside: installing it must not change what is measured.
_EXTRAS_LEFT_OUT = ("dev", "demo", "hsm", "k8s", "notebook", "snp")
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_MUTABLE_RECORDS = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")  # how it was installed, not what


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A package tree that was read once: relative paths, contents, and the 48-byte digest over both."""

    files: tuple[tuple[str, bytes], ...]
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that decides a simulated workload's identity; each digest has 48 bytes."""

    tree: bytes
    interpreter: bytes
    dependencies: bytes
    entry: str
    role: Role

    @property
    def mr_enclave(self) -> bytes:
        """Return the 32 bytes that a simulated SGX quote carries as MRENCLAVE."""
        return digest(
            "strongroom/simulated-enclave/v1",
            self.tree,
            self.interpreter,
            self.dependencies,
            self.entry.encode(),
            self.role.value.encode(),
        )

    @property
    def mr_td(self) -> bytes:
        """Return the 48 bytes of MRTD: the interpreter stands where a trust domain has its firmware."""
        return digest384("strongroom/simulated-td/v1", self.interpreter)

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Return RTMR0 (dependencies), RTMR1 (our code), RTMR2 (entry point and role) and RTMR3 (unused, zero)."""
        start = digest384("strongroom/simulated-start/v1", self.entry.encode(), self.role.value.encode())
        return _extend(self.dependencies), _extend(self.tree), _extend(start), _ZERO_REGISTER

    def text(self, tee: str) -> str:
        """Return the measurement as policies name it."""
        return sgx_measurement(self.mr_enclave) if tee == "sgx" else tdx_measurement(self.mr_td, self.rtmrs)


def measure(role: Role, tree: Tree, *, interpreter: Path | None = None, site: Path | None = None) -> Measured:
    """Return what a process started for ``role`` from ``tree`` measures to, by default by this interpreter.

    With ``interpreter`` and ``site``, those of an image that is looked at and not run: the directory in which its
    packages are installed is searched instead of this process's.
    """
    if role not in ENTRY:
        raise UsageError(f"role {role.value} does not run in a TEE", hint=f"start one of {', '.join(sorted(ENTRY))}")
    executable = Path(sys.executable).resolve() if interpreter is None else interpreter
    status = executable.stat()
    return Measured(
        tree=tree.digest,
        interpreter=_interpreter_digest(str(executable), status.st_mtime_ns, status.st_size, interpreter is None),
        dependencies=_dependencies_digest(_search_path(sys.path if site is None else [str(site)])),
        entry=ENTRY[role],
        role=role,
    )


def installed_package() -> Path:
    """Return the directory of the strongroom package that this process runs."""
    return Path(strongroom.__file__).resolve().parent


def read_tree(package: Path) -> Tree:
    """Read and digest a package directory; hidden files, links out of it and bytecode are no part of it.

    Raise UsageError if ``package`` is not a directory called ``strongroom`` with an ``__init__.py``.
    """
    if package.name != PACKAGE or not (package / "__init__.py").is_file():
        raise UsageError(
            f"{package} is not a strongroom package", hint="name the directory that holds strongroom/__init__.py"
        )
    files = tuple((name, path.read_bytes()) for name, path in sorted(_walk(package)))
    parts = [part for name, data in files for part in (name.encode(), hashlib.sha256(data).digest())]
    return Tree(files=files, digest=digest384("strongroom/package-tree/v1", *parts))


def place_tree(tree: Tree, directory: Path) -> Path:
    """Write ``tree`` below ``directory`` unless it is there already, unchanged; return the path to import it from."""
    place = directory / tree.digest.hex()[:32]
    package = place / PACKAGE
    if package.is_dir():
        if read_tree(package).digest == tree.digest:
            return place
        shutil.rmtree(place)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=directory, prefix=".draft-"))
    for name, data in tree.files:
        path = draft / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    try:
        draft.rename(place)
    except OSError:  # another process placed the same tree a moment ago
        shutil.rmtree(draft, ignore_errors=True)
        if not package.is_dir():
            raise
    return place


def _walk(package: Path) -> Iterator[tuple[str, Path]]:
    for directory, folders, names in os.walk(package):
        folders[:] = sorted(one for one in folders if one != "__pycache__" and not one.startswith("."))
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") or name.endswith((".pyc", ".pyo")) or path.is_symlink():
                continue
            yield path.relative_to(package).as_posix(), path


def _extend(value: bytes) -> bytes:
    """Return a fresh runtime register extended once, as TDG.MR.RTMR.EXTEND does."""
    return hashlib.sha384(_ZERO_REGISTER + value).digest()


@functools.lru_cache(maxsize=4)
def _interpreter_digest(path: str, modified_ns: int, size: int, running: bool) -> bytes:
    """Digest the interpreter's binary; time and size only decide whether it must be read again.

    A binary that takes Python from a shared library says nothing of its version, so that is digested as well, and one
    that does not run has none to say.
    """
    del modified_ns, size
    binary = Path(path).read_bytes()
    version = b""
    if _SHARED_PYTHON.search(binary):
        if not running:
            raise UsageError(
                f"the interpreter {path} takes Python from a shared library, which is not measured",
                hint="measure inside the image, or build the image by scripts/image",
            )
        version = sys.version.encode()
    return digest384("strongroom/interpreter/v1", hashlib.sha256(binary).digest(), version)


def _search_path(entries: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Return where distributions are looked for, with the time of the last change there: the key of the cache."""
    return tuple((entry, Path(entry).stat().st_mtime_ns) for entry in entries if Path(entry).is_dir())


@functools.lru_cache(maxsize=4)
def _dependencies_digest(search_path: tuple[tuple[str, int], ...]) -> bytes:
    """Digest the RECORD of every installed distribution that Strongroom needs, directly or through another one."""
    places = [entry for entry, _ in search_path]
    found: dict[str, bytes] = {}
    waiting = [PACKAGE]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        distribution = next(iter(metadata.Distribution.discover(name=name, path=places)), None)
        if distribution is None:
            continue  # an extra, or what another platform needs: not installed here
        if name != PACKAGE:
            found[f"{name} {distribution.version}"] = _record_digest(distribution.read_text("RECORD") or "")
        for requirement in distribution.requires or ():
            needed = _needed(requirement, of=name)
            if needed and needed not in seen:
                seen.add(needed)
                waiting.append(needed)
    parts = [part for name in sorted(found) for part in (name.encode(), found[name])]
    return digest384("strongroom/dependencies/v1", *parts)


def _record_digest(text: str) -> bytes:
    """Digest the lines that say what was installed; scripts (which carry local paths) and bytecode are not imported."""
    lines = []
    for line in text.splitlines():
        path, _, rest = line.rpartition(",")[0].rpartition(",")
        if not rest or path.startswith((".", "/")) or path.endswith((".pyc", *_MUTABLE_RECORDS)):
            continue
        lines.append(f"{path},{rest}".encode())
    return hashlib.sha256(b"\n".join(sorted(lines))).digest()


def _needed(requirement: str, *, of: str) -> str:
    """Return the distribution that a requirement names, or "" if it belongs to an extra that never runs inside."""
    match = _REQUIREMENT.match(requirement)
    extras = _EXTRA.findall(requirement)
    if match is None or (extras and (of != PACKAGE or set(extras) & set(_EXTRAS_LEFT_OUT))):
        return ""
    return re.sub(r"[-_.]+", "-", match[1]).lower()
