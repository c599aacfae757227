"""The door for endpoints: open and close windows of answers, within every owner's quotas (spec/8-serving.md §5).

What is opened is counted at once and written down before a caller hears anything; what was not used comes back when the
window is closed. Counts are per dataset, caller and quota, so a second endpoint shares what is left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from strongroom.attestation.roles import Role
from strongroom.broker.desk import ConflictError, Desk, StrangerError
from strongroom.broker.names import MOST_WANTED
from strongroom.broker.records import ANSWERS, Job, text_change
from strongroom.broker.requests import MalformedRequestError, Message, encode64
from strongroom.broker.sessions import Session
from strongroom.catalog.store import Change
from strongroom.digests import same, to_text
from strongroom.ledger.entry import EntryKind
from strongroom.policy.document import DataUsePolicy, Quota
from strongroom.policy.fusion import fuse

WINDOW_SECONDS = 5
ROOT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One quota of one dataset for one caller: what was allowed in the quota's window of time."""

    dataset: str
    caller: str
    quota: Quota
    window: int
    used: int

    @property
    def key(self) -> str:
        """Return what names the account among all."""
        return f"quota/{self.dataset}/{self.caller}/{self.quota.seconds}"

    @property
    def left(self) -> int:
        """Return how many answers are left."""
        return max(0, self.quota.answers - self.used)

    def add(self, answers: int) -> Change:
        """Return the record with ``answers`` more (or fewer) used."""
        used = max(0, self.used + answers)
        return text_change(ANSWERS, self.key, json.dumps({"window": self.window, "used": used}))


class Accounts:
    """The quotas as the state holds them at one moment."""

    def __init__(self, records: Mapping[str, str], *, now: datetime) -> None:
        self._records = records
        self._now = int(now.timestamp())

    def find(self, policies: Sequence[DataUsePolicy], *, caller: str, at: int | None = None) -> list[Account]:
        """Return the accounts of ``caller`` under all quotas of ``policies``, in the windows of now or of ``at``."""
        moment = self._now if at is None else at
        return [
            self._account(policy.dataset, caller, quota, window=moment // quota.seconds)
            for policy in policies
            if policy.serving is not None
            for quota in policy.serving.quotas
        ]

    def retry_after(self, accounts: Sequence[Account]) -> int:
        """Return after how many seconds all of ``accounts`` begin anew."""
        ends = [(one.window + 1) * one.quota.seconds for one in accounts]
        return max(1, max(ends, default=self._now + 1) - self._now)

    def _account(self, dataset: str, caller: str, quota: Quota, *, window: int) -> Account:
        empty = Account(dataset=dataset, caller=caller, quota=quota, window=window, used=0)
        text = self._records.get(empty.key)
        kept = json.loads(text) if text else {}
        if kept.get("window") != window:
            return empty
        return Account(dataset=dataset, caller=caller, quota=quota, window=window, used=int(kept["used"]))


class AnswersDoor:
    """Serves endpoints between their release and their end."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def about(self, session: Session) -> Job:
        """Return the job of an endpoint's session; raise StrangerError for any other workload."""
        if session.role is not Role.ENDPOINT:
            raise StrangerError("only endpoints account for answers")
        return self._desk.state.jobs[session.job]

    def read(self, job: Job, body: bytes) -> tuple[int, dict[str, Any] | None, dict[str, int] | None]:
        """Return the window, what it closes and what the next is to open, as a request states them."""
        message = Message.parse(body, "window", "closes", "opens")
        window, closes, opens = message.number("window"), message.fields["closes"], message.fields["opens"]
        parties = {party.fingerprint for party in job.recipients}
        if closes is not None:
            told = Message.parse(json.dumps(closes).encode(), "count", "root", "callers", "refused")
            closes = {
                "count": told.number("count"),
                "root": to_text(told.raw("root", size=ROOT_BYTES)),
                "callers": _counts(told.mapping("callers"), parties),
                "refused": told.number("refused"),
            }
        if opens is not None:
            opens = _counts(Message.parse(json.dumps({"opens": opens}).encode(), "opens").mapping("opens"), parties)
        if window < 1 or (closes is None and opens is None):
            raise MalformedRequestError("a window has a number, and closes or opens something")
        return window, closes, opens

    async def account(
        self, job: Job, asked: tuple[int, dict[str, Any] | None, dict[str, int] | None], *, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write down what was answered and what may be answered next, and return the credits.

        Every policy was asked just before, unless nothing is opened.
        """
        window, closes, opens = asked
        state, now = self._desk.state, self._desk.clock()
        before = json.loads(state.answers.get(f"job/{job.id}", "{}"))
        again = _check_order(before, window=window, closes=closes)
        policies = [state.policies[one.dataset] for one in job.inputs if one.dataset in state.policies]
        records: dict[str, str] = dict(state.answers)
        changes = [] if again or closes is None else _give_back(before, closes, policies, records, now=now)
        names = {party.fingerprint: str(party) for party in job.recipients}
        credits_, retry = {}, {}
        for caller, wanted in sorted((opens or {}).items()):
            books = Accounts(records, now=now)
            accounts = books.find(policies, caller=caller)
            allowed = min([wanted, *(one.left for one in accounts)])
            credits_[caller] = allowed
            if allowed < wanted:
                retry[caller] = books.retry_after([one for one in accounts if one.left <= allowed])
            for one in accounts:
                change = one.add(allowed)
                records[change.key] = change.value.decode()
                changes.append(change)
        # What an earlier attempt reserved is lost: its answer may have reached the endpoint.
        kept = {"window": window, "root": (closes or {}).get("root", ""), "reserved": credits_}
        kept["at"] = int(now.timestamp())
        changes.append(text_change(ANSWERS, f"job/{job.id}", json.dumps(kept)))
        facts: dict[str, Any] = {**about, "window": window}
        if closes is not None:
            counted = {names[caller]: count for caller, count in closes["callers"].items() if count}
            facts["closed"] = {**closes, "callers": counted}
        if opens is not None:
            allowed_by_name = {names[caller]: count for caller, count in credits_.items() if count}
            facts["opened"] = {"callers": allowed_by_name, "seconds": WINDOW_SECONDS}
        facts["models"] = [one.key for one in job.inputs]
        written = await self._desk.write(EntryKind.ANSWERS, facts, changes=changes)
        answer = {"credits": credits_, "retry": retry, "seconds": WINDOW_SECONDS, "index": written.index}
        # An endpoint is its own egress: it cuts answers by the policies of this moment, not of its release.
        return answer if opens is None else {**answer, "policy": encode64(fuse(policies).encode())}


def _check_order(before: Mapping[str, Any], *, window: int, closes: Mapping[str, Any] | None) -> bool:
    """Return whether this is the last request once more; raise ConflictError unless it or the next one."""
    last = int(before.get("window", 0))
    root = str((closes or {}).get("root", ""))
    if window == last and last and same(root.encode(), str(before.get("root", "")).encode()):
        return True
    if window != last + 1:
        raise ConflictError(f"the next window of this job is {last + 1}, got {window}")
    reserved = before.get("reserved", {})
    for caller, count in (closes or {}).get("callers", {}).items():
        if count > int(reserved.get(caller, 0)):
            raise ConflictError("an endpoint answered more than it was allowed to")
    return False


def _give_back(
    before: Mapping[str, Any],
    closes: Mapping[str, Any],
    policies: Sequence[DataUsePolicy],
    records: dict[str, str],
    *,
    now: datetime,
) -> list[Change]:
    """Return the changes that give back what was reserved and not used, where that window of time is the newest."""
    changes = []
    for caller, reserved in before.get("reserved", {}).items():
        unused = int(reserved) - int(closes["callers"].get(caller, 0))
        for one in Accounts(records, now=now).find(policies, caller=caller, at=int(before.get("at", 0))):
            if unused > 0 and one.used:
                change = one.add(-unused)
                records[change.key] = change.value.decode()
                changes.append(change)
    return changes


def _counts(given: Mapping[str, Any], parties: set[str]) -> dict[str, int]:
    for caller, count in given.items():
        if caller not in parties or not isinstance(count, int) or isinstance(count, bool):
            raise MalformedRequestError("answers are counted for the callers of the job")
        if not 0 <= count <= MOST_WANTED:
            raise MalformedRequestError(f"a window has at most {MOST_WANTED} answers of a caller")
    return dict(given)
