"""Hand out the files below one directory, as one tar a connection: ciphertext on its way to whoever may open it.

Entry point of the porter's pod, for analysts whose machine does not see the cluster's storage. It is untrusted and asks
nobody who he is: what it carries is encrypted, and whoever fetches verifies every byte (spec/7-kubernetes.md §8).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import stat
import sys
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

_BUFFER = 1 << 20
_SECONDS = 300.0
_MOST_CALLERS = 32  # at once; whoever else calls waits in the kernel's queue


def pack(directory: Path, stream: socket.socket) -> None:
    """Write every plain file below ``directory`` to ``stream``; links and what they lead to stay here."""
    with (
        stream.makefile("wb", buffering=_BUFFER) as pipe,
        tarfile.open(fileobj=pipe, mode="w|", bufsize=_BUFFER) as tar,
    ):
        for path in _files(directory):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
                entry.size = os.fstat(file.fileno()).st_size
                tar.addfile(entry, file)


def _files(directory: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(folder) / name
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def serve(directory: Path, listener: socket.socket) -> None:
    """Serve callers, each in a thread of its own and 32 at once, until the pod is deleted."""
    places = threading.BoundedSemaphore(_MOST_CALLERS)
    while True:
        places.acquire()
        caller, _ = listener.accept()
        caller.settimeout(_SECONDS)
        threading.Thread(target=_answer, args=(directory, caller, places), daemon=True).start()


def _answer(directory: Path, caller: socket.socket, places: threading.BoundedSemaphore) -> None:
    try:
        with caller, contextlib.suppress(OSError):  # one that left is no trouble
            pack(directory, caller)
            caller.shutdown(socket.SHUT_WR)
            caller.recv(1)  # until the other side has it all and goes
    finally:
        places.release()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one directory; it says once that it listens."""
    parser = argparse.ArgumentParser(prog="strongroom-porter")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    asked = parser.parse_args(argv)
    if not asked.directory.is_dir():
        _say("failed", message=f"there is nothing at {asked.directory}")
        return 1
    host, _, port = asked.listen.rpartition(":")
    with socket.create_server((host, int(port)), backlog=16) as listener:
        _say("listening", port=listener.getsockname()[1])
        serve(asked.directory, listener)
    return 0


def _say(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
