"""Answer for single keys over a Unix socket, to the Java machines that this process started and to nobody else.

One line asks, ``KEY <key id>``; one line answers, ``OK <base64 of 32 bytes>`` or ``NO <reason>``. The agent never
writes a key anywhere else, and after :meth:`KeyAgent.close` it has none to give.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from strongroom.errors import EnvelopeError, StrongroomError, UsageError

if TYPE_CHECKING:
    from strongroom.envelope.keys import DataKey

MAX_LINE = 1024
_DEADLINE = 5.0
_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_ASK = "KEY "

_admitted: set[int] = set()


class KeyAgentError(EnvelopeError):
    """The key agent cannot listen where it was told to."""


def admit(pid: int) -> None:
    """Let the process ``pid``, which this process started, ask this process's agents."""
    _admitted.add(pid)


def dismiss(pid: int) -> None:
    """Let ``pid`` ask no more; call it as soon as the process has ended, before its number can be used again."""
    _admitted.discard(pid)


class KeyAgent:
    """A Unix socket in a private directory that answers for single keys, as Parquet's key tools ask for them.

    ``find`` returns a key by its id or raises a StrongroomError whose message becomes the refusal.
    """

    def __init__(self, find: Callable[[str], DataKey], *, directory: Path) -> None:
        self._find: Callable[[str], DataKey] | None = find
        self.path = directory / "keys.sock"
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen; raise KeyAgentError unless the directory is this account's own and closed to others."""
        directory = self.path.parent
        state = directory.stat()
        if state.st_uid != os.geteuid() or state.st_mode & 0o077:
            raise KeyAgentError(
                f"{directory} is open to others (mode {state.st_mode & 0o777:o}), and must have mode 700"
            )
        if len(os.fsencode(self.path)) > 107:  # noqa: PLR2004  sizeof(sockaddr_un.sun_path) less its end
            raise KeyAgentError(
                f"the socket's path is too long: {self.path}", hint="use a scratch directory with a short path"
            )
        if self._find is None:
            raise UsageError("a closed key agent stays closed")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.path))
        self._socket.listen(_BACKLOG)
        threading.Thread(target=self._serve, args=(self._socket,), name="key-agent", daemon=True).start()

    def close(self) -> None:
        """Forget where keys come from, and stop listening; safe to call twice."""
        self._find = None
        if self._socket is not None:
            # Only shutdown wakes a thread that waits in accept.
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"KeyAgent({str(self.path)!r})"

    def __reduce__(self) -> str:
        raise TypeError("a key agent does not travel")

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._attend, args=(connection,), name="key-answer", daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_DEADLINE)
            try:
                connection.sendall(self._reply(connection))
            except OSError:
                return  # the asker left or was too slow; it gets nothing

    def _reply(self, connection: socket.socket) -> bytes:
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size),
        )
        try:
            line = _read_line(connection)
            if uid != os.geteuid() or pid not in _admitted:
                return b"NO this process may not ask for keys\n"
            key_id = parse_question(line)
            if self._find is None:
                return b"NO the keys were withdrawn\n"
            return encode_answer(self._find(key_id))
        except StrongroomError as error:
            return b"NO " + " ".join(error.message.split()).encode()[: MAX_LINE * 2] + b"\n"


def parse_question(line: bytes) -> str:
    """Return the key id that ``KEY <key id>`` asks for; raise KeyAgentError if the line says anything else."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise KeyAgentError("the question is not UTF-8") from error
    key_id = text.removeprefix(_ASK)
    if not text.startswith(_ASK) or not key_id or not key_id.isprintable():
        raise KeyAgentError("expected KEY and a key id")
    return key_id


def encode_answer(key: DataKey) -> bytes:
    """Return the line that carries ``key`` to the asker."""
    from strongroom.envelope.keys import reveal

    return b"OK " + base64.b64encode(reveal(key)) + b"\n"


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(MAX_LINE + 1 - len(line))
        line += part
        if not part or len(line) > MAX_LINE:
            raise KeyAgentError(f"expected one line of at most {MAX_LINE} bytes")
    return line[:-1]
