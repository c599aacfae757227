"""Remember the last checkpoint seen, so that a ledger which shrinks or forks is noticed (spec/5-ledger.md §5).

One small file per ledger, replaced atomically under a lock; several processes may share it. It never forgets by itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from strongroom.digests import same
from strongroom.errors import LedgerError, TransportError
from strongroom.ledger.checkpoint import LedgerKey, SignedCheckpoint
from strongroom.ledger.proofs import verify_consistency

Prove = Callable[[int, int], Sequence[bytes]]
_FIELDS = {"ledger", "checkpoint"}
_LOCK_SECONDS = 10.0
_MAX_FILE = 64 << 10


class RolledBackError(LedgerError):
    """The ledger is shorter than, or inconsistent with, what was remembered of it."""


class CheckpointMemory:
    """What one client remembers of one ledger; the file at ``path`` appears with the first checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._within = threading.RLock()

    def recall(self) -> tuple[LedgerKey, SignedCheckpoint] | None:
        """Return the remembered ledger key and checkpoint, or None before the first; raise if it is damaged."""
        text = self.carry()
        if not text:
            return None
        try:
            value = json.loads(text)
            if not isinstance(value, dict) or set(value) != _FIELDS:
                raise LedgerError("fields are missing")  # noqa: TRY301  one message for every kind of damage
            key = LedgerKey.decode(value["ledger"])
            return key, key.verify(value["checkpoint"])
        except (ValueError, TypeError, AttributeError, LedgerError) as error:
            raise LedgerError(
                f"the remembered checkpoint in {self.path} is damaged",
                hint="restore the file from a backup; deleting it gives up the protection against a rolled-back ledger",
            ) from error

    def recall_note(self) -> str:
        """Return the remembered checkpoint as the signed note that it came as, or an empty text before the first."""
        remembered = self.recall()
        return "" if remembered is None else remembered[1].encode()

    @classmethod
    def carried(cls, path: Path, text: str) -> Self:
        """Return a memory at ``path`` that begins with what another one, :meth:`carry`, remembered."""
        memory = cls(path)
        if text:
            memory._replace(text)
            memory.recall()
        return memory

    def carry(self) -> str:
        """Return everything remembered as text for another process of the same job; nothing in it is secret."""
        try:
            with self.path.open() as stream:
                return stream.read(_MAX_FILE)
        except FileNotFoundError:
            return ""

    def check(self, note: str, *, ledger: LedgerKey, prove: Prove) -> SignedCheckpoint:
        """Return the checkpoint in ``note`` after holding it against what is remembered, and remember the newer one.

        ``prove(first, second)`` asks the ledger for a consistency proof. A checkpoint that is merely late (an answer
        overtaken by another) is accepted if the ledger still proves that the remembered one continues it. Raise
        RolledBackError if the ledger is shorter than remembered, forked, or has another key.
        """
        signed = ledger.verify(note)
        with self._locked():
            remembered = self.recall()
            if remembered is None:
                self._write(ledger, signed)
                return signed
            known, last = remembered
            if known.origin != ledger.origin or not same(known.key.raw, ledger.key.raw):
                raise RolledBackError(
                    f"the ledger is {ledger.origin!r}, remembered is {known.origin!r}: another key, another history",
                    hint="a broker that lost or replaced its store has another ledger; if that was agreed, "
                    f"move {self.path} away and keep it as evidence; then a new memory begins",
                )
            self._hold(signed, last, prove)
            if signed.checkpoint.size > last.checkpoint.size:
                self._write(ledger, signed)
        return signed

    def _hold(self, signed: SignedCheckpoint, last: SignedCheckpoint, prove: Prove) -> None:
        older, newer = sorted((last.checkpoint, signed.checkpoint), key=lambda checkpoint: checkpoint.size)
        try:
            proof = () if older.size in (0, newer.size) else prove(older.size, newer.size)
            verify_consistency(
                first=older.size, second=newer.size, first_root=older.root, second_root=newer.root, proof=proof
            )
        except LedgerError as error:
            raise RolledBackError(
                f"the ledger shows {signed.checkpoint.size} entries that do not agree with the "
                f"{last.checkpoint.size} remembered: {error.message}",
                hint=f"the broker's store was rolled back or rewritten; keep {self.path} and tell the other parties",
            ) from error

    def _write(self, ledger: LedgerKey, signed: SignedCheckpoint) -> None:
        self._replace(json.dumps({"ledger": ledger.encode(), "checkpoint": signed.encode()}, ensure_ascii=False))

    def _replace(self, text: str) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + _LOCK_SECONDS
        with self._within, self.path.with_name(self.path.name + ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > until:
                        raise TransportError(
                            f"the memory {self.path} was locked by another process for {_LOCK_SECONDS:.0f} seconds",
                            hint="another client holds it while waiting for the broker; try again",
                        ) from error
                    time.sleep(0.01)
            yield
