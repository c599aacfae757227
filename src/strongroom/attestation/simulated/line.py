"""Frame requests and answers on the socket between a simulated workload and its platform.

A frame is a length (u32, little endian) and that many bytes of JSON. Either side treats anything else as the end.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from strongroom.errors import TransportError

MAX_FRAME_BYTES = 1 << 20


class LineError(TransportError):
    """The other end of the line to the simulated TEE is gone or does not speak the protocol."""


def send_frame(line: socket.socket, message: dict[str, Any]) -> None:
    """Write one message; raise LineError if the other end is gone."""
    body = json.dumps(message).encode()
    try:
        line.sendall(len(body).to_bytes(4, "little") + body)
    except OSError as error:
        raise LineError("the simulated TEE's socket is closed", hint="its platform process has ended") from error


def receive_frame(line: socket.socket) -> dict[str, Any] | None:
    """Return the next message, or None if the other end closed between two messages."""
    head = _read(line, 4)
    if head is None:
        return None
    size = int.from_bytes(head, "little")
    if size > MAX_FRAME_BYTES:
        raise LineError(f"a frame has at most {MAX_FRAME_BYTES} bytes, got {size}")
    body = _read(line, size)
    try:
        message = json.loads(body or b"")
    except (ValueError, RecursionError) as error:
        raise LineError("a frame holds JSON, got something else") from error
    if not isinstance(message, dict):
        raise LineError(f"a frame holds a JSON object, got {type(message).__name__}")
    return message


def _read(line: socket.socket, size: int) -> bytes | None:
    """Return exactly ``size`` bytes, or None at a clean end."""
    data = bytearray()
    while len(data) < size:
        try:
            block = line.recv(size - len(data))
        except TimeoutError as error:
            raise LineError(
                "the simulated TEE did not answer in time", hint="is its platform process stopped?"
            ) from error
        except OSError as error:
            raise LineError("the simulated TEE's socket failed") from error
        if not block:
            if data:
                raise LineError(f"the line ended after {len(data)} of {size} bytes")
            return None
        data += block
    return bytes(data)
