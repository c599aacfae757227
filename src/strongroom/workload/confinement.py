"""Confine a process, and everything it starts, to writing below a few directories, by the kernel's Landlock.

It holds against any program, in Python, Java or native code, because the kernel enforces it, and it is never undone.
Where the kernel has no Landlock, :func:`confine` says so in what it returns, and never pretends. As ``python -m
strongroom.workload.confinement DIRECTORY... -- COMMAND...`` it confines itself and then becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from strongroom.errors import StrongroomError, UsageError

# Numbers of linux/landlock.h and asm-generic/unistd.h; the system calls have one number on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_QUESTION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_WRITES = (
    _WRITE_FILE
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_CHAR
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_SOCK
    | _MAKE_FIFO
    | _MAKE_BLOCK
) | _MAKE_SYM
_ABI_REFER, _ABI_TRUNCATE, _ABI_NETWORK, _ABI_SCOPES = 2, 3, 4, 6
_TCP = 1 << 0 | 1 << 1  # bind and connect
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_ALWAYS = ("/dev/null",)


class ConfinementError(StrongroomError):
    """The kernel has Landlock but would not confine this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What the kernel enforces: the Landlock version (0: none) and the directories that stay writable."""

    abi: int
    writable: tuple[Path, ...]

    @property
    def enforced(self) -> bool:
        """Return whether the kernel enforces anything at all."""
        return self.abi > 0


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel offers, 0 if it has none or has it switched off."""
    version = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_QUESTION))
    return max(0, int(version))


def confine(writable: Iterable[Path], *, keep_signals: bool = False, keep_tcp: bool = False) -> Confinement:
    """Let this process and its future children write below ``writable`` only, for the rest of their lives.

    Where the kernel can (Landlock 4, Linux 6.7), neither may they open or accept TCP connections, unless ``keep_tcp``.
    It also gives up gaining privileges and core dumps. A process confined inside a confined process can neither trace
    nor (unless ``keep_signals``) signal those outside. Raises ConfinementError if Landlock is there but fails.
    """
    directories = tuple(Path(directory).resolve(strict=True) for directory in writable)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _failure("give up new privileges")
    abi = landlock_abi()
    if abi == 0:
        return Confinement(abi=0, writable=directories)
    rights = _WRITES | (_REFER if abi >= _ABI_REFER else 0) | (_TRUNCATE if abi >= _ABI_TRUNCATE else 0)
    network = _TCP if abi >= _ABI_NETWORK and not keep_tcp else 0
    scoped = 0
    if abi >= _ABI_SCOPES:
        scoped = _SCOPE_ABSTRACT_SOCKETS | (0 if keep_signals else _SCOPE_SIGNALS)
    # An older kernel wants the structure it knows: 8 bytes at first, 16 with networks, 24 with scopes.
    ruleset = _Ruleset(fs=rights, net=network, scoped=scoped)
    size = ctypes.sizeof(_Ruleset) if scoped else 16 if network else 8
    ruleset_fd = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset_fd < 0:
        raise _failure("make a ruleset")
    try:
        for directory in directories:
            _allow(ruleset_fd, directory, rights)
        for device in _ALWAYS:
            _allow(ruleset_fd, Path(device), rights & (_WRITE_FILE | _TRUNCATE))
        if libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset_fd), ctypes.c_uint32(0)) != 0:
            raise _failure("confine this process")
    finally:
        os.close(ruleset_fd)
    return Confinement(abi=abi, writable=directories)


def confined_command(command: Sequence[str], *, writable: Iterable[Path]) -> list[str]:
    """Return the command that confines itself to ``writable`` and then becomes ``command``."""
    return [sys.executable, "-m", __spec__.name, *(str(path) for path in writable), "--", *command]


def _allow(ruleset: int, path: Path, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(access=rights, parent=parent)
        arguments = (ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
        if _libc().syscall(_ADD_RULE, *arguments) != 0:
            raise _failure(f"allow writing to {path}")
    finally:
        os.close(parent)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failure(act: str) -> ConfinementError:
    return ConfinementError(f"the kernel would not {act}: {os.strerror(ctypes.get_errno())}")


def main(argv: Sequence[str]) -> None:
    """Confine this process to the directories before ``--`` and become the command after it."""
    if "--" not in argv or argv[-1] == "--":
        raise UsageError("usage: python -m strongroom.workload.confinement DIRECTORY... -- COMMAND...")
    split = list(argv).index("--")
    confine((Path(directory) for directory in argv[:split]), keep_tcp=True)  # Spark's own, encrypted and authenticated
    command = list(argv[split + 1 :])
    os.execv(command[0], command)  # noqa: S606  becoming the command is the point; it is our own argument list


if __name__ == "__main__":
    main(sys.argv[1:])
