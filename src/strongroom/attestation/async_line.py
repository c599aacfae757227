"""Drive a secure line from an asyncio event loop: the same TLS, frames and deadlines, without a thread."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from strongroom.attestation.secure_line import (
    MAX_FRAME_BYTES,
    Deadline,
    LineClosedError,
    SecureLine,
    Wanted,
    encode_frame,
    too_slow,
)
from strongroom.attestation.workload_keys import WorkloadKeys

_BLOCK = 1 << 16
T = TypeVar("T")


class AsyncSecureLine(SecureLine):
    """One TLS 1.3 connection in one event loop; one task may send while another receives.

    The methods of :class:`SecureLine` that wait for the network have a second name here, with ``_soon``.
    """

    def __init__(self, plain: socket.socket, *, keys: WorkloadKeys, server: bool) -> None:
        super().__init__(plain, keys=keys, server=server)
        self._loop = asyncio.get_running_loop()
        self._turn_to_send, self._turn_to_receive = asyncio.Lock(), asyncio.Lock()
        self._waiting: dict[int, set[asyncio.Future[None]]] = {select.POLLIN: set(), select.POLLOUT: set()}

    async def shake_hands_soon(self, deadline: Deadline) -> None:
        """Complete the TLS handshake, as :meth:`SecureLine.shake_hands` does."""
        await self._until_soon(self._tls.do_handshake, deadline)

    async def send_soon(self, message: dict[str, Any], deadline: Deadline, *, most: int = MAX_FRAME_BYTES) -> None:
        """Send one message."""
        view = memoryview(encode_frame(message, most=most))
        async with self._turn_to_send:
            while view:
                block = view[:_BLOCK]
                sent = await self._until_soon(lambda part=block: self._tls.send(part), deadline)  # type: ignore[misc]
                view = view[sent:]

    async def receive_soon(self, deadline: Deadline, *, most: int = MAX_FRAME_BYTES) -> dict[str, Any]:
        """Return the next message; what has arrived so far is kept for the next call, also after a cancellation."""
        async with self._turn_to_receive:
            while (message := self.take_message(most=most)) is None:
                self._received += await self._until_soon(lambda: self._tls.recv(_BLOCK), deadline)
            return message

    def close(self) -> None:
        """End the session and the connection; safe to call twice. Whoever waits is told."""
        for event, waiting in self._waiting.items():
            self._unwatch(event)
            for future in waiting:
                if not future.done():
                    future.set_exception(LineClosedError("the connection was closed on this side"))
            waiting.clear()
        super().close()

    async def _until_soon(self, operation: Callable[[], T], deadline: Deadline) -> T:
        while True:
            done = self.attempt(operation)
            if not isinstance(done, Wanted):
                return done
            if deadline.left <= 0:
                raise too_slow(deadline)
            await self._wait_soon(done.event, deadline)

    async def _wait_soon(self, event: int, deadline: Deadline) -> None:
        """Wait until the socket is ready for ``event``; several tasks may wait for the same."""
        future: asyncio.Future[None] = self._loop.create_future()
        waiting = self._waiting[event]
        if not waiting:
            watch = self._loop.add_reader if event == select.POLLIN else self._loop.add_writer
            watch(self._plain.fileno(), self._wake, event)
        waiting.add(future)
        try:
            await asyncio.wait_for(future, deadline.left)
        except TimeoutError as error:
            raise too_slow(deadline) from error
        finally:
            waiting.discard(future)
            if not waiting:
                self._unwatch(event)

    def _wake(self, event: int) -> None:
        self._unwatch(event)
        waiting = self._waiting[event]
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()

    def _unwatch(self, event: int) -> None:
        descriptor = self._plain.fileno()
        if descriptor >= 0:
            forget = self._loop.remove_reader if event == select.POLLIN else self._loop.remove_writer
            forget(descriptor)
