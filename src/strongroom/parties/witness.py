"""The witness: follows a ledger, proves each checkpoint to continue the last, keeps what contradicts (spec 5 §6).

It needs no trust in the broker, only the ledger's public key from elsewhere: checkpoints are signed and proofs are
checked. It sees no entry. A contradiction, once seen, is not forgotten by starting anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from strongroom.broker.calls import Line, parse_proof
from strongroom.errors import LedgerError, TransportError
from strongroom.ledger import CheckpointMemory, LedgerKey, RolledBackError


class Source(Protocol):
    """Where checkpoints and proofs come from."""

    def note(self) -> str:
        """Return the newest signed checkpoint."""

    def prove(self, first: int, second: int) -> Sequence[bytes]:
        """Return the proof that the ledger of ``second`` entries continues that of ``first``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen once: the ledger's size and root, and by how many entries it grew since the last time."""

    time: datetime
    size: int
    root: bytes
    grown: int


class BrokerSource:
    """A broker's public door; its certificate is trusted for nothing, since everything asked for is signed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._line: Line | None = None

    def note(self) -> str:
        """Return the newest signed checkpoint; raise TransportError if the broker does not answer."""
        answer = self._call("/v1/checkpoint", {})
        if not isinstance(note := answer.get("checkpoint"), str):
            raise TransportError(f"what answers at {self._url} shows no checkpoint")
        return note

    def prove(self, first: int, second: int) -> Sequence[bytes]:
        """Return a consistency proof; raise LedgerError if the broker has none, TransportError if it is silent."""
        return parse_proof(self._call("/v1/consistency", {"first": first, "second": second}))

    def close(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _call(self, path: str, body: Mapping[str, int]) -> dict[str, object]:
        try:
            if self._line is None:
                self._line = Line.open(self._url)
            return self._line.call(path, body, again=True)
        except TransportError:
            self.close()  # a broker that was started anew has another certificate
            raise


class Witness:
    """Follows one ledger; ``record`` is a file of JSON lines that is only ever appended to."""

    def __init__(self, *, ledger: LedgerKey, memory: CheckpointMemory, record: Path) -> None:
        self._ledger = ledger
        self._memory = memory
        self._record = record

    def recall_contradiction(self) -> None:
        """Raise RolledBackError if the record holds a contradiction from an earlier time."""
        for line in self._record.read_text().splitlines() if self._record.exists() else ():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise LedgerError(f"the record {self._record} is damaged", hint="restore it from a backup") from error
            if "contradiction" in found:
                raise RolledBackError(
                    f"the ledger contradicted itself at {found['time']}: {found['contradiction']}",
                    hint=f"both signed checkpoints stand in {self._record}; show them to all parties",
                )

    def observe(self, source: Source, *, now: datetime) -> Sight:
        """Return what the source shows now, after proving that it continues what was seen, and record it if it grew.

        Raise RolledBackError, with both signed checkpoints in the record, if it does not; TransportError if the source
        is silent, which proves nothing.
        """
        before = self._memory.recall()
        note = source.note()
        try:
            signed = self._memory.check(note, ledger=self._ledger, prove=source.prove)
        except RolledBackError as error:
            remembered = "" if before is None else before[1].encode()
            self._append(now, contradiction=error.message, remembered=remembered, shown=note)
            raise
        seen = 0 if before is None else before[1].checkpoint.size
        size = signed.checkpoint.size
        if before is None or size > seen:
            self._append(now, checkpoint=note)
        return Sight(time=now, size=size, root=signed.checkpoint.root, grown=max(0, size - seen))

    def _append(self, now: datetime, **facts: str) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        with self._record.open("a") as stream:
            stream.write(json.dumps({"time": f"{now:%Y-%m-%dT%H:%M:%SZ}", **facts}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
