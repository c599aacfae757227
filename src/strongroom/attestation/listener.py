"""Accept attested channels at one address, whatever strangers do there (spec/6-attested-channel.md)."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from strongroom.attestation.appraisal import Verifier
from strongroom.attestation.channel import (
    INTRODUCTION_SECONDS,
    Address,
    AttestedChannel,
    introduce,
    judged_by_caller,
    name_address,
)
from strongroom.attestation.encounter import Check, Clock, End
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, DeadlineError, ProtocolError
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import StrongroomError, TransportError

MAX_PENDING = 32
MAX_WAITING = 256


class ListenerClosedError(TransportError):
    """The listener was closed."""


class Listener:
    """Accepts channels at one address; strangers wait in line, never in the way.

    Every introduction runs in a thread of its own within ``deadline`` seconds. At most ``max_pending`` run at once;
    when another stranger comes, the one that has been stalling longest is dropped.
    """

    def __init__(
        self,
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
    ) -> None:
        self._end = End.prepare(
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
        self._deadline = deadline
        self._max_pending = max_pending
        self._pending: OrderedDict[int, socket.socket] = OrderedDict()
        self._pending_lock = threading.Lock()
        # Two lines, so that no number of refused strangers can push out a peer that was verified.
        self._channels: deque[AttestedChannel] = deque()
        self._refusals: deque[StrongroomError] = deque(maxlen=4 * max_pending)
        self._arrived = threading.Condition()
        self._closed = False
        self._socket = open_door(address)
        host, port = self._socket.getsockname()[:2]
        self.address: Address = (host, port)
        threading.Thread(target=self._listen, name=f"attested-listener-{port}", daemon=True).start()

    @property
    def closed(self) -> bool:
        """Say whether :meth:`close` was called."""
        return self._closed

    def accept(self, *, deadline: float | None = None) -> AttestedChannel:
        """Return the next channel, or raise what was wrong with the next peer; a refused peer is already gone.

        Waits until the listener is closed (ListenerClosedError), or at most ``deadline`` seconds (DeadlineError).
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._closed or self._channels or self._refusals, deadline):
                raise DeadlineError(f"nobody came within {deadline:g} s")
            if self._closed:
                raise ListenerClosedError("the listener is closed")
            if self._channels:
                return self._channels.popleft()
            raise self._refusals.popleft()

    def close(self) -> None:
        """Stop listening and drop whoever is not accepted yet; channels already handed out stay open."""
        with self._arrived:
            self._closed = True
            waiting = list(self._channels)
            self._channels.clear()
            self._arrived.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._socket.close()
        with self._pending_lock:
            for plain in self._pending.values():
                _hang_up(plain)
        for channel in waiting:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        number = 0
        while not self.closed:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                if not self.closed:
                    time.sleep(0.05)  # out of descriptors: let some pending introductions end
                continue
            number += 1
            with self._pending_lock:
                if len(self._pending) >= self._max_pending:
                    _, oldest = self._pending.popitem(last=False)
                    _hang_up(oldest)
                self._pending[number] = plain
            threading.Thread(target=self._introduce, args=(number, plain), daemon=True).start()

    def _introduce(self, number: int, plain: socket.socket) -> None:
        outcome: AttestedChannel | StrongroomError | None
        try:
            outcome = introduce(self._end, plain, server=True, deadline=Deadline(self._deadline))
        except StrongroomError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  a stranger must not end the listener, whatever it sent
            _hang_up(plain)
            outcome = ProtocolError(f"an introduction failed: {type(error).__name__}")
        finally:
            with self._pending_lock:
                self._pending.pop(number, None)
        with self._arrived:
            if isinstance(outcome, StrongroomError):
                self._refusals.append(outcome)
            elif not self._closed and len(self._channels) < MAX_WAITING:
                self._channels.append(outcome)
                outcome = None
            self._arrived.notify_all()
        if isinstance(outcome, AttestedChannel):
            outcome.close()


def open_door(address: Address) -> socket.socket:
    """Return a socket that listens at ``address``; raise TransportError if none can."""
    try:
        return socket.create_server(address, backlog=128)
    except OSError as error:
        raise TransportError(
            f"cannot listen at {name_address(address)}: {error.strerror}",
            hint="choose another port, or 0 for any free one",
        ) from error


def _hang_up(plain: socket.socket) -> None:
    """Wake and end whoever waits on a socket; its own thread closes it."""
    with contextlib.suppress(OSError):
        plain.shutdown(socket.SHUT_RDWR)
