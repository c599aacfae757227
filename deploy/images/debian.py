"""Make the lowest layer of an image from Debian packages, each pinned by version and SHA-256, and from nothing else.

The files of the packages are unpacked and no script of theirs is run: so there is no package manager, no shell and no
cache in the root, building it takes no rights, and the same packages give the same files. Versions come from the
machine's own apt sources, whose signatures apt verifies; what is fetched is then held to the lock.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Debian's /usr has been merged; packages of bookworm still name the old places.
_MERGED = ("bin", "sbin", "lib", "lib64")
_LEFT_OUT = (
    *("usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/pixmaps"),
    *("usr/share/applications", "usr/share/doc-base", "usr/share/binfmts", "usr/share/bash-completion"),
    *("usr/share/python3/debpython", "usr/share/zoneinfo/right", "usr/lib/x86_64-linux-gnu/gconv", "var", "usr/sbin"),
)
_UNNEEDED_PYTHON = re.compile(
    r"usr/lib/python3\.\d+/(test|idlelib|tkinter|turtledemo|ensurepip|lib2to3|distutils|pydoc_data|config-[^/]*)(/|$)"
    # Terminals and old databases, whose libraries are not in the image.
    r"|usr/lib/python3\.\d+/lib-dynload/(_curses|_curses_panel|_dbm|nis|readline)\."
)
_EVERYTHING = re.compile("")
# Of some packages only these files: Hadoop sets a file's rights by running chmod, and reads them by running ls.
_ONLY = {"coreutils": re.compile(r"usr/bin/(chmod|ls)$|usr/share/doc/")}
_LINE = re.compile(r"^([a-z0-9][a-z0-9+.-]+) (\S+) (amd64|all) ([0-9a-f]{64})$")


class PackageError(Exception):
    """A package cannot be had as it is locked; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Package:
    """A Debian package that is pinned: ``sha256`` is that of its .deb file, in hex."""

    name: str
    version: str
    architecture: str
    sha256: str


def read_lock(path: Path) -> tuple[Package, ...]:
    """Return the packages of a lock file, in its order; raise PackageError for a line that is none."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise PackageError(f"{path.name}:{number}: expected 'name version architecture sha256', got {line[:60]!r}")
        found.append(Package(name=match[1], version=match[2], architecture=match[3], sha256=match[4]))
    return tuple(found)


def write_lock(path: Path, packages: Iterable[Package]) -> None:
    """Write a lock file that ``read_lock`` reads."""
    head = "# Debian packages of the images, pinned. Made anew by: scripts/image --relock\n"
    lines = (f"{one.name} {one.version} {one.architecture} {one.sha256}\n" for one in sorted(packages))
    path.write_text(head + "".join(lines))


def pin(names: Iterable[str], folder: Path) -> tuple[Package, ...]:
    """Fetch the newest version that the machine's apt sources have of each package, and return them pinned."""
    packages = []
    for name in names:
        path = _download(name, folder)
        fields = subprocess.run(
            ["dpkg-deb", "--field", str(path), "Version", "Architecture"], check=True, capture_output=True, text=True
        ).stdout
        version, architecture = (line.partition(": ")[2] for line in fields.splitlines())
        packages.append(Package(name=name, version=version, architecture=architecture, sha256=_digest(path)))
        path.rename(_place(packages[-1], folder))
    return tuple(packages)


def fetch(packages: Iterable[Package], folder: Path) -> None:
    """Fetch what is not in ``folder`` yet; every file there is held to its hash.

    Raise PackageError, naming all of them, for packages that the sources no longer have in that version.
    """
    lost = []
    for package in packages:
        path = _place(package, folder)
        if not path.is_file():
            try:
                _download(f"{package.name}={package.version}", folder).rename(path)
            except PackageError:
                lost.append(f"{package.name} {package.version}")
                continue
        if _digest(path) != package.sha256:
            path.unlink()
            raise PackageError(f"{package.name} {package.version} is not the file that was locked: its SHA-256 differs")
    if lost:
        raise PackageError(
            f"the apt sources do not have {', '.join(lost)}; point them at a snapshot of the lock's day, "
            "or pin the newest with scripts/image --relock and review the change"
        )


def unpack(packages: Iterable[Package], folder: Path, root: Path) -> None:
    """Unpack the packages' files into ``root``, and list them where scanners look (var/lib/dpkg/status)."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    paragraphs = []
    for package in sorted(packages):
        path = _place(package, folder)
        _unpack_one(path, root, only=_ONLY.get(package.name, _EVERYTHING))
        fields = ["Package", "Version", "Architecture", "Maintainer", "Source", "Homepage"]
        control = subprocess.run(
            ["dpkg-deb", "--field", str(path), *fields], check=True, capture_output=True, text=True
        ).stdout
        paragraphs.append(f"{control.strip()}\nStatus: install ok installed\n")
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text("\n".join(paragraphs))
    for name in ("proc", "sys", "dev", "run", "tmp", "etc"):
        (root / name).mkdir(exist_ok=True)


def _unpack_one(path: Path, root: Path, *, only: re.Pattern[str]) -> None:
    with tempfile.TemporaryFile() as stream:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], check=True, stdout=stream)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            for entry in tar:
                name = _settle(entry.name)
                if not name or _is_left_out(name) or not only.match(name):
                    continue
                target = _within(root, name)
                if entry.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_symlink():  # of another package: what is written goes here, not where that leads
                    target.unlink()
                if entry.issym():
                    target.symlink_to(entry.linkname)
                elif entry.islnk():
                    shutil.copy2(_within(root, _settle(entry.linkname)), target, follow_symlinks=False)
                elif content := tar.extractfile(entry):
                    with target.open("wb") as written:
                        shutil.copyfileobj(content, written)
                    target.chmod(0o755 if entry.mode & 0o100 and not entry.mode & 0o6000 else 0o644)


def _within(root: Path, name: str) -> Path:
    """Return where ``name`` lies below ``root``; refuse one that a link leads out of it on the way."""
    target = root / name
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise PackageError(f"a package names the path {name[:80]!r}, which a link leads elsewhere")
    return target


def _settle(name: str) -> str:
    """Return where a packaged path lies in a root with a merged /usr; refuse one that leads out of it."""
    parts = PurePosixPath(name.removeprefix("./")).parts
    if ".." in parts or name.startswith("/"):
        raise PackageError(f"a package names the path {name[:80]!r}")
    return "/".join(("usr", *parts) if parts and parts[0] in _MERGED else parts)


def _is_left_out(name: str) -> bool:
    if name.startswith("usr/share/doc/"):
        return not (name.endswith("/copyright") or name.count("/") <= 3)  # noqa: PLR2004  the package's own folder
    above = any(name == one or name.startswith(f"{one}/") for one in _LEFT_OUT)
    return above or _UNNEEDED_PYTHON.match(name) is not None or name.endswith(".pyc")


def _download(wanted: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as place:
        Path(place).chmod(0o755)  # apt fetches as an account of its own
        done = subprocess.run(
            ["apt-get", "-q", "download", wanted], cwd=place, capture_output=True, text=True, check=False
        )
        found = list(Path(place).glob("*.deb"))
        if done.returncode or len(found) != 1:
            raise PackageError(f"apt cannot fetch {wanted}: {done.stderr.strip()[-200:]}")
        return found[0].rename(folder / found[0].name)


def _place(package: Package, folder: Path) -> Path:
    return folder / f"{package.name}_{package.version.replace(':', '%3a')}_{package.architecture}.deb"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def list_missing_libraries(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each file of ``root`` that needs a shared library which nothing in ``root`` provides, with its name."""
    provided = {path.name for path in root.rglob("*.so*")}
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as stream:
            if stream.read(4) != b"\x7fELF":
                continue
        shown = subprocess.run(["objdump", "-p", str(path)], capture_output=True, text=True, check=False).stdout
        for needed in re.findall(r"^\s+NEEDED\s+(\S+)$", shown, re.MULTILINE):
            if needed not in provided:
                yield path.relative_to(root).as_posix(), needed
