"""The door for everybody: evidence about this broker, nonces, and the ledger with its proofs (spec/4-release.md §4).

Nothing here needs a name, and nothing here is secret.
"""

from __future__ import annotations

import asyncio
from typing import Any

from strongroom.attestation.binding import report_data
from strongroom.attestation.roles import Role
from strongroom.broker.desk import Desk
from strongroom.broker.names import NONCE_BYTES
from strongroom.broker.requests import Message, encode64
from strongroom.broker.sessions import NONCE_LIFETIME

MAX_ENTRIES = 1024
MAX_ENTRIES_BYTES = 4 << 20


class PublicDoor:
    """Answers anybody."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._one_at_a_time = asyncio.Lock()

    async def evidence(self, body: bytes) -> dict[str, Any]:
        """Return evidence that this very broker holds these very keys, for the caller's nonce."""
        nonce = Message.parse(body, "nonce").raw("nonce", size=NONCE_BYTES)
        keys = self._desk.keys
        bound = report_data(
            role=Role.BROKER, nonce=nonce, exporter=b"", own_key=keys.public.digest, peer_key=b"", job_digest=b""
        )
        async with self._one_at_a_time:  # A TEE may take long over a quote, and nobody else shall wait for it.
            evidence = await asyncio.to_thread(self._desk.tee.evidence, bound)
        return {
            "evidence": evidence.to_json(),
            "kem": encode64(keys.public.kem),
            "ledger_key": self._desk.book.public.encode(),
        }

    async def nonce(self, body: bytes) -> dict[str, Any]:
        """Return a nonce that answers once within a minute."""
        Message.parse(body)
        issued = self._desk.nonces.issue(now=self._desk.clock())
        return {"nonce": encode64(issued), "seconds": NONCE_LIFETIME.total_seconds()}

    async def checkpoint(self, body: bytes) -> dict[str, Any]:
        """Return the newest signed checkpoint."""
        Message.parse(body)
        return {"checkpoint": self._desk.book.note}

    async def entries(self, body: bytes) -> dict[str, Any]:
        """Return entries from ``start`` up to ``end``, fewer if they are many."""
        message = Message.parse(body, "start", "end")
        start, end = message.number("start"), message.number("end")
        log = self._desk.book.log
        found: list[str] = []
        size = 0
        for entry in log.entries(start, min(end, start + MAX_ENTRIES) if end >= start else end):
            size += len(entry)
            if found and size > MAX_ENTRIES_BYTES:
                break
            found.append(encode64(entry))
        return {"start": start, "entries": found}

    async def inclusion(self, body: bytes) -> dict[str, Any]:
        """Return the proof that entry ``index`` is in the ledger of ``size``."""
        message = Message.parse(body, "index", "size")
        proof = self._desk.book.log.inclusion_proof(message.number("index"), message.number("size"))
        return {"proof": [encode64(node) for node in proof]}

    async def consistency(self, body: bytes) -> dict[str, Any]:
        """Return the proof that the ledger of ``second`` continues that of ``first``."""
        message = Message.parse(body, "first", "second")
        proof = self._desk.book.log.consistency_proof(message.number("first"), message.number("second"))
        return {"proof": [encode64(node) for node in proof]}
