"""Attested channels for asyncio: the introduction, messages and renewals of ``channel``, in an event loop.

Evidence is made and appraised in a thread, since a TEE's device and a collateral service may make one wait; everything
else happens in the loop. What is checked, and in which order, is ``encounter``'s alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from strongroom.attestation.appraisal import AttestationResult, Verifier
from strongroom.attestation.async_line import AsyncSecureLine
from strongroom.attestation.channel import (
    INTRODUCTION_SECONDS,
    MAX_INTRODUCTION_BYTES,
    MESSAGE_SECONDS,
    Address,
    judged_by_caller,
)
from strongroom.attestation.encounter import (
    CONTROL,
    Attested,
    Check,
    Clock,
    Conversation,
    Encounter,
    End,
    Renewal,
    Say,
    check_message,
    check_time,
    refusal,
)
from strongroom.attestation.listener import MAX_PENDING, MAX_WAITING, ListenerClosedError, open_door
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, DeadlineError, LineClosedError, ProtocolError
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import StrongroomError, TransportError
from strongroom.statements import SigningKey

_SHARED_WAIT = 0.02  # seconds between looks at what another task received
T = TypeVar("T")


class AsyncAttestedChannel(Attested):
    """A connection to a verified peer, in one event loop; one task may send while another receives."""

    def __init__(self, line: AsyncSecureLine, renewal: Renewal, *, seconds: float) -> None:
        super().__init__(renewal, seconds=seconds)
        self._line = line
        self._inbox: deque[dict[str, Any]] = deque()
        self._proofs: deque[dict[str, Any]] = deque()
        self._receiving, self._renewing = asyncio.Lock(), asyncio.Lock()

    async def send(self, message: dict[str, Any], *, deadline: float = MESSAGE_SECONDS) -> None:
        """Send one JSON object within ``deadline`` seconds; a failed or cancelled send ends the channel."""
        await self._say(check_message(message), Deadline(deadline))

    async def receive(self, *, deadline: float = MESSAGE_SECONDS) -> dict[str, Any]:
        """Return the next JSON object; raise DeadlineError after ``deadline`` seconds, and the channel stays usable.

        A peer's request for fresh evidence is answered on the way.
        """
        limit = Deadline(deadline)
        try:
            await asyncio.wait_for(self._receiving.acquire(), max(limit.left, 0.001))
        except TimeoutError as error:
            raise DeadlineError(f"another task was receiving for {deadline:g} s") from error
        try:
            while not self._inbox:
                await self._take_one(limit)
            return self._inbox.popleft()
        finally:
            self._receiving.release()

    async def reattest(self, *, deadline: float = INTRODUCTION_SECONDS) -> AttestationResult | None:
        """Ask the peer for evidence over a fresh nonce, appraise it, return the result; a failure ends the channel."""
        limit = Deadline(deadline)
        async with self._renewing:
            try:
                await self._say(self._renewal.ask(), limit)
                while not self._proofs:
                    check_time(limit)
                    if self._receiving.locked():
                        await asyncio.sleep(_SHARED_WAIT)
                        continue
                    async with self._receiving:
                        if not self._proofs:
                            await self._take_one(limit)
                return (await asyncio.to_thread(self._renewal.judge, self._proofs.popleft())).peer.result
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End the channel; safe to call twice."""
        self._line.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _take_one(self, limit: Deadline) -> None:
        message = await self._line.receive_soon(limit)
        if CONTROL not in message:
            self._inbox.append(message)
            return
        try:
            answer = await asyncio.to_thread(self._renewal.answer, message)
            if answer is None:
                self._proofs.append(message)
            else:
                await self._say(answer, Deadline(INTRODUCTION_SECONDS))
        except BaseException:
            self.close()
            raise

    async def _say(self, message: dict[str, Any], limit: Deadline) -> None:
        try:
            await self._line.send_soon(message, limit)
        except (DeadlineError, asyncio.CancelledError):
            self.close()  # half a message is on the wire
            raise


async def connect_soon(
    address: Address,
    *,
    keys: WorkloadKeys,
    role: Role,
    expected_role: Role,
    verifier: Verifier,
    job_digest: bytes,
    tee: Tee | None = None,
    signer: SigningKey | None = None,
    check: Check = judged_by_caller,
    deadline: float = INTRODUCTION_SECONDS,
    clock: Clock = lambda: datetime.now(UTC),
) -> AsyncAttestedChannel:
    """Return a channel to the workload at ``address``; arguments and errors are those of :func:`channel.connect`."""
    end = End.prepare(
        role=role,
        keys=keys,
        tee=tee,
        signer=signer,
        admits=(expected_role,),
        verifier=verifier,
        job_digest=job_digest,
        check=check,
        clock=clock,
    )
    limit = Deadline(deadline)
    host, port = address
    plain = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    plain.setblocking(False)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(plain, (host, port)), limit.left)
    except TimeoutError as error:
        plain.close()
        raise DeadlineError(f"nobody answered at {host}:{port} within {deadline:g} s") from error
    except OSError as error:
        plain.close()
        raise TransportError(
            f"cannot reach {host}:{port}: {error.strerror or error}",
            hint="is the workload running, and the port right?",
        ) from error
    except BaseException:
        plain.close()
        raise
    return await _introduce(end, plain, server=False, deadline=limit)


class AsyncListener:
    """Accepts channels at one address, in one event loop; strangers wait in line, never in the way.

    Made by :meth:`open`. At most ``max_pending`` introductions run at once; when another stranger comes, the one that
    has been stalling longest is dropped.
    """

    def __init__(self, plain: socket.socket, end: End, *, deadline: float, max_pending: int) -> None:
        self._socket = plain
        self._end = end
        self._deadline = deadline
        self._max_pending = max_pending
        self._pending: OrderedDict[int, asyncio.Task[None]] = OrderedDict()
        self._channels: deque[AsyncAttestedChannel] = deque()
        self._refusals: deque[StrongroomError] = deque(maxlen=4 * max_pending)
        self._arrived = asyncio.Condition()
        self._closed = False
        host, port = plain.getsockname()[:2]
        self.address: Address = (host, port)
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        keys: WorkloadKeys,
        role: Role,
        tee: Tee,
        verifier: Verifier,
        job_digest: bytes,
        admits: Collection[Role] = (Role.CLIENT, Role.WORKER, Role.EGRESS),
        check: Check = judged_by_caller,
        deadline: float = INTRODUCTION_SECONDS,
        max_pending: int = MAX_PENDING,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> Self:
        """Listen at ``address``; arguments are those of :class:`listener.Listener`."""
        end = End.prepare(
            role=role,
            keys=keys,
            tee=tee,
            signer=None,
            admits=admits,
            verifier=verifier,
            job_digest=job_digest,
            check=check,
            clock=clock,
        )
        plain = open_door(address)
        plain.setblocking(False)
        return cls(plain, end, deadline=deadline, max_pending=max_pending)

    async def accept(self, *, deadline: float | None = None) -> AsyncAttestedChannel:
        """Return the next channel, or raise what was wrong with the next peer; a refused peer is already gone."""
        async with self._arrived:
            try:
                await asyncio.wait_for(self._arrived.wait_for(self._has_news), deadline)
            except TimeoutError as error:
                raise DeadlineError(f"nobody came within {deadline:g} s") from error
            if self._closed:
                raise ListenerClosedError("the listener is closed")
            if self._channels:
                return self._channels.popleft()
            raise self._refusals.popleft()

    async def close(self) -> None:
        """Stop listening and drop whoever is not accepted yet; channels already handed out stay open."""
        self._closed = True
        tasks = [self._listening, *self._pending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        async with self._arrived:
            self._arrived.notify_all()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _has_news(self) -> bool:
        return self._closed or bool(self._channels) or bool(self._refusals)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            try:
                plain, _ = await loop.sock_accept(self._socket)
            except OSError:
                await asyncio.sleep(0.05)  # out of descriptors: let some pending introductions end
                continue
            number += 1
            if len(self._pending) >= self._max_pending:
                _, oldest = self._pending.popitem(last=False)
                oldest.cancel()
            self._pending[number] = asyncio.create_task(self._welcome(number, plain))

    async def _welcome(self, number: int, plain: socket.socket) -> None:
        channel: AsyncAttestedChannel | None = None
        failure: StrongroomError | None = None
        try:
            channel = await _introduce(self._end, plain, server=True, deadline=Deadline(self._deadline))
        except StrongroomError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  a stranger must not end the listener, whatever it sent
            failure = ProtocolError(f"an introduction failed: {type(error).__name__}")
        finally:
            self._pending.pop(number, None)
        async with self._arrived:
            if failure is not None:
                self._refusals.append(failure)
            elif channel is not None and len(self._channels) < MAX_WAITING:
                self._channels.append(channel)
                channel = None
            self._arrived.notify_all()
        if channel is not None:
            channel.close()


async def _introduce(end: End, plain: socket.socket, *, server: bool, deadline: Deadline) -> AsyncAttestedChannel:
    """Return the channel, or close the connection and raise what failed."""
    started = time.monotonic()
    try:
        line = AsyncSecureLine(plain, keys=end.credentials.keys, server=server)
    except OSError as error:
        plain.close()
        raise LineClosedError("the other side closed the connection") from error
    try:
        await line.shake_hands_soon(deadline)
        conversation = end.converse(server=server, peer_spki=line.peer_spki, exporter=line.exporter)
        encounter = await _hold(conversation, line, deadline)
    except StrongroomError as error:
        told = refusal(error)
        if told is not None:
            with contextlib.suppress(StrongroomError):
                await line.send_soon(told, Deadline(min(1.0, deadline.left)))
        line.close()
        raise
    except BaseException:
        line.close()
        raise
    return AsyncAttestedChannel(line, Renewal(end, encounter), seconds=time.monotonic() - started)


async def _hold(conversation: Conversation, line: AsyncSecureLine, deadline: Deadline) -> Encounter:
    heard: dict[str, Any] | None = None
    while True:
        step = await _in_thread(lambda said=heard: _next(conversation, said), deadline)  # type: ignore[misc]
        if isinstance(step, Encounter):
            return step
        heard = None
        if isinstance(step, Say):
            await line.send_soon(step.message, deadline)
        else:
            heard = await line.receive_soon(deadline, most=MAX_INTRODUCTION_BYTES)


def _next(conversation: Conversation, heard: dict[str, Any] | None) -> Any:  # noqa: ANN401  a step, or the end of it
    try:
        return conversation.send(heard)
    except StopIteration as done:
        return done.value


async def _in_thread(step: Callable[[], T], deadline: Deadline) -> T:
    """Return what ``step`` returns; give up waiting at the deadline (its thread ends by itself)."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(step), max(deadline.left, 0.001))
    except TimeoutError as error:
        raise DeadlineError(f"evidence was not made and appraised within {deadline.seconds:g} s") from error
