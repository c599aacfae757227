"""Run the service on granian inside this process, with TLS keys that never touch a disk (spec/4-release.md §4.1).

granian's embedded server keeps one application in one process, so state stays where it is; rustls speaks TLS 1.3 only.
The key is handed over in a memory file that is closed again as soon as the server has read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any, Protocol, Self

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.server.embed import Server

from strongroom.broker.keys import BrokerKeys
from strongroom.broker.names import SERVER_NAME
from strongroom.errors import TransportError, UsageError

READY_SECONDS = 10.0
BACKLOG = 1024


class Application(Protocol):
    """What answers requests: the serving broker's doors, or a sealed one's."""

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:  # noqa: ANN401  granian's objects
        """Answer one request."""


class MemoryFile(PosixPath):
    """A path to a file that exists in memory only; it resolves to itself, because there is nothing behind it."""

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002  the signature is pathlib's
        """Return the path as it is."""
        return self


@contextmanager
def memory_file(name: str, data: bytes) -> Iterator[Path]:
    """Hold ``data`` in an anonymous memory file for as long as the block lasts."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield MemoryFile(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def reserve(host: str, port: int) -> socket.socket:
    """Bind the address without listening, so that a free port is known before the server takes it over.

    Raise UsageError if it is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:  # Somebody listening there already is an error, although SO_REUSEPORT would share the port.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}", hint="name another address") from error
    return held


async def serve(
    service: Application, keys: BrokerKeys, *, held: socket.socket, stop: asyncio.Event
) -> asyncio.Task[None]:
    """Return the serving task once the server answers on the address that ``held`` reserves."""
    host, port = held.getsockname()[:2]
    with (
        memory_file("certificate", keys.certificate_pem) as certificate,
        memory_file("key", keys.reveal_tls_key()) as key,
    ):
        server = Server(
            service,
            address=host,
            port=port,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            log_enabled=False,
            backlog=BACKLOG,
            ssl_cert=certificate,
            ssl_key=key,
            ssl_protocol_min=SSLProtocols.tls13,
        )
        task = asyncio.create_task(_run(server, stop))
        await _wait_ready(task, keys, host=host, port=port)
    return task


async def _run(server: Server, stop: asyncio.Event) -> None:
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.stop()
    stopping.cancel()
    await serving


async def _wait_ready(task: asyncio.Task[None], keys: BrokerKeys, *, host: str, port: int) -> None:
    """Wait until a TLS handshake with this very broker succeeds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=keys.certificate_pem.decode())
    until = asyncio.get_running_loop().time() + READY_SECONDS
    while asyncio.get_running_loop().time() < until and not task.done():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=SERVER_NAME)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise TransportError(f"the server did not answer on {host}:{port} within {READY_SECONDS:.0f} s of its start")
