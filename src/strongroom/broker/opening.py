"""Come by the store's key: from the TEE, from the custodians, or from a broker that hands it over (spec 4 §5.5).

Which way is decided by :mod:`custodians`; here it is gone. What was learnt on the way is checked before serving.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from strongroom.attestation.tee import Tee, TeeCapabilityError
from strongroom.broker.custodians import (
    ID_BYTES,
    CustodianSeal,
    OpenByCustodians,
    OpenByTee,
    SealRecordError,
    TeeSeal,
    deal,
    parse_seal,
    plan_opening,
)
from strongroom.broker.keeping import Handed, Keeping
from strongroom.broker.keys import BrokerKeys
from strongroom.broker.sealed_service import SealedService
from strongroom.broker.server import serve
from strongroom.broker.sessions import Nonces
from strongroom.broker.vigil import Vigil
from strongroom.catalog.store import ClosedStore, RolledBackStoreError, Store
from strongroom.digests import same
from strongroom.envelope.keys import DataKey, reveal
from strongroom.errors import LedgerError
from strongroom.ledger.checkpoint import LedgerKey
from strongroom.ledger.log import MerkleLog
from strongroom.statements import PartyId

SEALING_LABEL: Final = "broker-store"
_LAST_ANSWER_SECONDS: Final = 0.2

Watch = Callable[[Vigil], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A store whose key is there. ``remembered`` are checkpoints that its ledger has to contain, by who brought them.

    ``renews`` says that its keys are to be new from now on; ``founds`` that nothing is in it yet.
    """

    store: Store
    keeping: Keeping
    remembered: Mapping[str, str] = field(default_factory=dict)
    renews: bool = False
    founds: bool = False
    seal: Callable[[LedgerKey], tuple[DataKey, str]] | None = None

    def choose_keys(self, kept: BrokerKeys | None, *, now: datetime) -> BrokerKeys:
        """Return the broker's keys: as they were kept, renewed, or new; raise SealRecordError if they are gone."""
        if kept is None and self.keeping.custodians and not self.founds:
            raise SealRecordError(
                "the store opens, but its records are gone", hint="bring back the newest copy of the store whole"
            )
        if kept is None:
            return BrokerKeys.generate(now=now)
        return kept.renew(now=now) if self.renews else kept

    def verify_ledger(self, ledger: LedgerKey, log: MerkleLog) -> None:
        """Raise RolledBackStoreError unless the ledger contains every checkpoint that was brought along."""
        for name, note in self.remembered.items():
            try:
                known = ledger.verify(note).checkpoint
                kept = known.size <= log.size and same(log.root_at(known.size), known.root)
            except LedgerError:
                kept = False
            if not kept:
                raise RolledBackStoreError(
                    f"the store was rolled back: its ledger of {log.size} entries does not contain the checkpoint that "
                    f"{name} remembers",
                    hint="an older copy of the store, or another one, was put in its place; bring back the newest",
                )

    def seal_anew(self, ledger: LedgerKey) -> Opened:
        """Return this, with the store to be sealed under its next key at the next commit, if it is to have one."""
        if self.seal is None:
            return self
        key, text = self.seal(ledger)
        self.store.reseal(reveal(key), seal=text)
        return replace(self, keeping=replace(self.keeping, key=key))


async def open_store(
    closed: ClosedStore,
    *,
    tee: Tee,
    named: Sequence[PartyId],
    handed: Handed | None,
    held: socket.socket,
    watch: Watch,
    stop: asyncio.Event,
) -> Opened | None:
    """Return the store with its key, or None if told to stop before the custodians have unsealed it.

    While it is sealed it serves their doors on the address that ``held`` reserves; ``watch`` is told when that begins.
    """
    if handed is not None:
        return _open_handed(closed, handed, named=named)
    try:
        terms = tee.sealing_terms()
    except TeeCapabilityError:
        terms = None
    plan = plan_opening(closed.seal, empty=closed.empty, named=named, terms=terms)
    if isinstance(plan, OpenByTee):
        return _open_by_tee(closed, plan, tee=tee)
    return await _open_by_custodians(closed, plan, tee=tee, held=held, watch=watch, stop=stop)


def _open_by_tee(closed: ClosedStore, plan: OpenByTee, *, tee: Tee) -> Opened:
    key = DataKey(tee.sealing_key(SEALING_LABEL, terms=plan.kept))
    newer = plan.kept != plan.now or (closed.empty and bool(plan.now))

    def seal(_ledger: LedgerKey) -> tuple[DataKey, str]:
        return DataKey(tee.sealing_key(SEALING_LABEL, terms=plan.now)), TeeSeal(terms=plan.now).encode()

    return Opened(
        store=closed.open(reveal(key)),
        keeping=Keeping(custodians=(), key=key, how="sealing key"),
        seal=seal if newer else None,
    )


def _open_handed(closed: ClosedStore, handed: Handed, *, named: Sequence[PartyId]) -> Opened:
    seal = parse_seal(closed.seal)
    if not isinstance(seal, CustodianSeal) or any(party not in seal.custodians for party in named):
        raise SealRecordError(
            "the store whose key was handed over is not one of the same custodians",
            hint="name the store of the broker that hands its key over, and no further custodian",
        )
    return Opened(
        store=closed.open(reveal(handed.key)),
        keeping=Keeping(custodians=seal.custodians, key=handed.key, how="handover"),
        remembered={"the broker that handed the key over": handed.checkpoint},
    )


async def _open_by_custodians(
    closed: ClosedStore,
    plan: OpenByCustodians,
    *,
    tee: Tee,
    held: socket.socket,
    watch: Watch,
    stop: asyncio.Event,
) -> Opened | None:
    dealt = plan.dealt
    vigil = Vigil(
        plan,
        store=dealt.store if dealt else os.urandom(ID_BYTES),
        seal=dealt.seal if dealt else os.urandom(ID_BYTES),
        clock=time.monotonic,
    )
    if not await _wait_for_all(vigil, tee=tee, held=held, watch=watch, stop=stop):
        return None
    given = vigil.release()
    parts = {party: one.part for party, one in given.items()}
    key = dealt.open(parts) if dealt else DataKey.generate()

    def seal(ledger: LedgerKey) -> tuple[DataKey, str]:
        fresh = DataKey.generate()
        text = deal(fresh, parts, store=vigil.store, ledger=ledger.encode()).encode()
        for part in parts.values():
            part.wipe()
        return fresh, text

    if not plan.renews:
        for part in parts.values():
            part.wipe()
    return Opened(
        store=closed.open(reveal(key)),
        keeping=Keeping(custodians=plan.custodians, key=key, how="custodians"),
        remembered={str(party): one.checkpoint for party, one in given.items() if one.checkpoint},
        renews=plan.renews,
        founds=dealt is None,
        seal=seal if plan.renews else None,
    )


async def _wait_for_all(vigil: Vigil, *, tee: Tee, held: socket.socket, watch: Watch, stop: asyncio.Event) -> bool:
    """Serve the custodians until all have contributed; return False if told to stop before."""
    keys, ended = BrokerKeys.generate(now=datetime.now(UTC)), asyncio.Event()
    service = SealedService(vigil, keys=keys, tee=tee, nonces=Nonces())
    serving = await serve(service, keys, held=held, stop=ended)
    watch(vigil)
    waiting: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(vigil.complete.wait()),
        asyncio.ensure_future(stop.wait()),
        serving,
    ]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if vigil.complete.is_set():
            await asyncio.sleep(_LAST_ANSWER_SECONDS)  # The last custodian hears that it was the last.
    finally:
        for one in waiting[:2]:
            one.cancel()
        ended.set()
        await serving
    return vigil.complete.is_set()
