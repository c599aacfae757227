"""Say to the untrusted host what it must know to place processes, one JSON object a line, and never anything else."""

from __future__ import annotations

import json
import os
import threading
from typing import Any


class HostLine:
    """The line to the host: taken from standard output before anything else can write there.

    After :meth:`take`, file descriptor 1 leads to nowhere, so that no library, program or child process can say a
    word to the host by printing.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @classmethod
    def take(cls) -> HostLine:
        """Keep standard output for this line alone and send everybody else's output to nowhere."""
        line = cls(os.dup(1))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        return line

    def say(self, event: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Write one event; a host that no longer listens is not an error."""
        text = json.dumps({"event": event, **facts}, separators=(",", ":")) + "\n"
        with self._lock:
            try:
                os.write(self._descriptor, text.encode())
            except OSError:
                return
