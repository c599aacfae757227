"""Everything the doors share: keys, state, book, nonces, sessions, the verifier and a clock (spec/4-release.md §4).

The desk knows how to say no: it writes the refusal with every reason into the ledger, and only then raises.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from strongroom.attestation.appraisal import Verifier
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.tee import Tee
from strongroom.broker.book import Book, Written
from strongroom.broker.keeping import Keeping
from strongroom.broker.keys import BrokerKeys
from strongroom.broker.orders import Order, VerifiedOrder, verify_order
from strongroom.broker.parcels import keep
from strongroom.broker.recent_collateral import RecentCollateral
from strongroom.broker.records import COLLATERAL, Job, text_change
from strongroom.broker.release import InputCase, fit, shorten
from strongroom.broker.sessions import Nonces, Sessions
from strongroom.broker.state import State
from strongroom.broker.tally import Tally
from strongroom.catalog.identity import Identity
from strongroom.catalog.store import Change
from strongroom.errors import RefusedError, StrongroomError
from strongroom.ledger.entry import Entry, EntryForm, EntryKind
from strongroom.statements import Statement, VerifyKey


class StrangerError(StrongroomError):
    """Somebody who is not known here asked for something; it is told no more than that."""


class ConflictError(StrongroomError):
    """What a known party asks for contradicts what is already registered."""


class RecordedRefusalError(RefusedError):
    """A refusal that stands in the ledger at ``index``."""

    def __init__(self, message: str, *, reasons: Sequence[str], index: int, hint: str = "") -> None:
        super().__init__(message, reasons=reasons, hint=hint)
        self.index = index


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCases:
    """The inputs of a job, as they stood at one revision of the state."""

    revision: int
    job: Job
    cases: tuple[InputCase, ...]


@dataclass(slots=True, kw_only=True)
class Desk:
    """What every door works with."""

    keys: BrokerKeys
    state: State
    book: Book
    nonces: Nonces
    sessions: Sessions
    verifier: Verifier
    collateral: RecentCollateral
    memory: CollateralMemory
    tee: Tee
    keeping: Keeping
    tally: Tally
    clock: Callable[[], datetime]
    _kept: int = -1  # the memory's revision that the store has
    _cases: OrderedDict[str, ReadCases] = field(default_factory=OrderedDict)

    async def write(
        self,
        kind: EntryKind,
        facts: Mapping[str, Any],
        *,
        reasons: Sequence[str] = (),
        changes: Sequence[Change] = (),
        administrative: bool = False,
    ) -> Written:
        """Take over ``changes``, and return once they and the entry are durable."""
        entry = fit(Entry(kind=kind, time=self.clock(), facts=facts, reasons=shorten(reasons)))
        self.state.apply(*changes)
        written = await self.book.write(entry.encode(), changes=changes, administrative=administrative)
        self.tally.entries[kind] += 1
        return written

    async def write_grant(
        self,
        form: EntryForm,
        facts: Mapping[str, str],
        *,
        changes: Sequence[Change] = (),
        administrative: bool = False,
    ) -> Written:
        """Take over ``changes``, and return once they and the grant that ``form`` makes of ``facts`` are durable."""
        entry = form.fill(facts, time=self.clock())
        self.state.apply(*changes)
        written = await self.book.write(entry, changes=changes, administrative=administrative)
        self.tally.entries[EntryKind.GRANT] += 1
        return written

    async def refuse(
        self, message: str, *, facts: Mapping[str, Any], reasons: Sequence[str], hint: str = ""
    ) -> NoReturn:
        """Write the refusal down and raise it."""
        written = await self.write(EntryKind.REFUSAL, {**facts, "asked": message}, reasons=reasons)
        raise RecordedRefusalError(f"refused: {message}", reasons=reasons, index=written.index, hint=hint)

    async def keep_memory(self) -> None:
        """Return once the newest collateral seen is in the store, so that a restart does not forget it."""
        revision = self.memory.revision
        if revision == self._kept:
            return
        text = self.memory.encode()
        if text != self.state.collateral:
            change = text_change(COLLATERAL, "newest", text)
            self.state.apply(change)
            await self.book.write(changes=[change], administrative=True)
        self._kept = max(self._kept, revision)

    def member(self, key: VerifyKey) -> Identity:
        """Return the member that signs with ``key``; raise StrangerError if there is none."""
        identity = self.state.member(key.fingerprint)
        if identity is None or identity.signing_key.raw != key.raw:
            raise StrangerError(
                f"no member signs with key {key.fingerprint}", hint="enrol this identity at the broker first"
            )
        return identity

    def take_order(self, statement: Statement, *, kind: Order) -> tuple[VerifiedOrder, Identity]:
        """Return a member's order after verifying it and using up its nonce."""
        order = verify_order(statement, kind=kind, ledger=self.keys.origin)
        identity = self.member(order.signer)
        self.nonces.use(order.nonce, now=self.clock())
        return order, identity

    def cases(self, job: Job) -> tuple[InputCase, ...]:
        """Return every input of ``job`` as it stands now; read anew only if anything at all has changed."""
        state, read = self.state, self._cases.get(job.id)
        if read is not None and read.revision == state.revision and read.job is job:
            return read.cases
        cases = tuple(
            InputCase(
                dataset=state.datasets.get(key),
                name=one.dataset,
                columns=one.columns,
                policy=state.policies.get(one.dataset),
                uses=state.uses.get(key, 0),
                revoked=state.is_revoked(key),
            )
            for one in job.inputs
            for key in (one.key,)
        )
        keep(self._cases, job.id, ReadCases(revision=state.revision, job=job, cases=cases))
        return cases
