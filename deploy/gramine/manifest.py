"""Write the strict Gramine manifest of one role from an image's files (syntax of Gramine 1.8 and later).

``python deploy/gramine/manifest.py ROOT ROLE > strongroom-ROLE.manifest.template``, ROOT as ``scripts/image --unpack``
lays it out. Every file is trusted by its hash, the command line is fixed, the host's environment stays outside but for
the one variable that strongroom.attestation.enclave reads, and nothing insecure is allowed. ``gramine-manifest`` fills
in where Gramine's own libraries are, and ``gramine-sgx-sign`` signs; the resulting .sig is what ``strongroom measure
--sigstruct`` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from strongroom.attestation.enclave import ARGUMENTS

ROLES = ("broker", "driver", "worker", "egress", "endpoint")
# Ciphertext, sealed records and what vendors signed: the host may change it, and that is noticed by what reads it.
_UNTRUSTED = {"broker": ("/var/lib/strongroom",), "driver": ("/data", "/jobs")}
_COLLATERAL = "/etc/strongroom/collateral"
_MOUNTED = ("/usr", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf")
_ENVIRONMENT = {
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": "/lib:/usr/lib/x86_64-linux-gnu",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "MALLOC_ARENA_MAX": "4",  # each arena reserves enclave memory
}


def list_trusted(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and SHA-256 of every file below ``root`` that an enclave may open, by each name it has there.

    A link leads to a file of the same root under a second name, since Gramine opens what the program names.
    """
    for mounted in _MOUNTED:
        top = root / mounted.lstrip("/")
        folders = [top] if top.is_file() else sorted(Path(one) for one, _, _ in os.walk(top))
        for folder in folders:
            for path in [folder] if folder.is_file() else sorted(folder.iterdir()):
                real = _within(root, path)
                if real is not None and real.is_file():
                    with real.open("rb") as stream:
                        yield f"/{path.relative_to(root).as_posix()}", hashlib.file_digest(stream, "sha256").hexdigest()


def render(root: Path, role: str, *, size: str, threads: int = 64) -> str:
    """Return the manifest of ``role``; ``size``: the enclave's memory, as ``4G``."""
    if role not in ROLES:
        raise ValueError(f"no role {role!r} runs in an enclave")
    untrusted = (*_UNTRUSTED.get(role, _UNTRUSTED["driver"]), _COLLATERAL)
    mounts = [f'{{ path = "{path}", uri = "file:{path}" }}' for path in (*_MOUNTED, *untrusted)]
    mounts.insert(0, '{ path = "/lib", uri = "file:{{ gramine.runtimedir() }}" }')
    mounts += [f'{{ type = "tmpfs", path = "{path}" }}' for path in ("/tmp", "/dev/shm")]  # noqa: S108  the enclave's own
    argv = ["/usr/bin/python3.11", "-P", "-s", "-m", "strongroom.attestation.enclave", role]
    lines = [
        "# Made by deploy/gramine/manifest.py; change that and make it anew.",
        'libos.entrypoint = "/usr/bin/python3.11"',
        f"loader.argv = {json.dumps(argv)}",
        'loader.log_level = "error"',
        "loader.uid = 10001",
        "loader.gid = 10001",
        *(f"loader.env.{name} = {json.dumps(value)}" for name, value in _ENVIRONMENT.items()),
        f"loader.env.{ARGUMENTS} = {{ passthrough = true }}",
        "sys.enable_sigterm_injection = true",
        "sys.enable_extra_runtime_domain_names_conf = true",
        'sys.stack.size = "8M"',
        'fs.root.type = "tmpfs"',
        "fs.mounts = [",
        *(f"  {mount}," for mount in mounts),
        "]",
        "sgx.debug = false",
        'sgx.remote_attestation = "dcap"',
        'sgx.file_check_policy = "strict"',
        "sgx.edmm_enable = true",
        f'sgx.enclave_size = "{size}"',
        f"sgx.max_threads = {threads}",
        "sgx.allowed_files = [",
        *(f'  "file:{path}/",' for path in untrusted),
        "]",
        "sgx.trusted_files = [",
        '  "file:{{ gramine.libos }}",',
        '  "file:{{ gramine.runtimedir() }}/",',
        *(
            f'  {{ uri = {json.dumps(f"file:{path}", ensure_ascii=False)}, sha256 = "{digest}" }},'
            for path, digest in list_trusted(root)
        ),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _within(root: Path, path: Path) -> Path | None:
    """Return what ``path`` is in an image's own root, or None for a link that leads nowhere in it."""
    for _ in range(40):
        if not path.is_symlink():
            return path
        link = str(path.readlink())
        base = root if link.startswith("/") else path.parent
        path = Path(os.path.normpath(base / link.lstrip("/")))
        if not path.is_relative_to(root):
            return None
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Write a manifest to standard output."""
    parser = argparse.ArgumentParser(description="Write the strict Gramine manifest of one role.")
    parser.add_argument("root", type=Path, help="an image's files, from scripts/image --unpack")
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--size", default="4G", help="the enclave's memory (default: 4G)")
    asked = parser.parse_args(argv)
    sys.stdout.write(render(asked.root, asked.role, size=asked.size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
