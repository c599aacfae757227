"""Count every answer before it is computed, and account for it in the ledger (spec/8-serving.md §5).

The endpoint's side: credit is spent from windows that the broker opened, and the leaves of what was answered are handed
in with the next request for a window. Nothing is answered without an open window.
"""

from __future__ import annotations

import base64
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from strongroom.broker.names import MOST_WANTED
from strongroom.broker.workload_session import OpenedWindow
from strongroom.digests import digest
from strongroom.errors import LedgerError, RefusedError, StrongroomError, TransportError
from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.ledger.proofs import leaf_hash, tree_root, verify_inclusion
from strongroom.policy.fusion import FusedPolicy
from strongroom.workload.pulse import seconds_now

LEAST_CREDIT: Final = 64
KEPT_WINDOWS: Final = 256
ASK_AGAIN_SECONDS: Final = 5.0
_LONGEST_PLACE: Final = 40
_MARGIN_SECONDS: Final = 1.0  # a window is left before it ends, so that its answers do not straddle the end


class QuotaError(RefusedError):
    """A caller has had as many answers as it may have for now."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, reasons=(message,), hint=f"ask again in {retry_after} s")
        self.retry_after = retry_after


class AccountsError(TransportError):
    """The ledger cannot be written, so nothing is answered."""


class Session(Protocol):
    """What the accounts need of the endpoint's session with the broker."""

    def account(
        self, window: int, *, closes: Mapping[str, Any] | None, opens: Mapping[str, int] | None
    ) -> OpenedWindow:
        """Close what was answered and open the next window."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof that one answer stands in the ledger: entry ``index`` has the root that ``proof`` leads to."""

    index: int
    number: int
    size: int
    proof: tuple[bytes, ...]

    def encode(self) -> dict[str, Any]:
        """Return the receipt as JSON."""
        proof = [base64.b64encode(one).decode() for one in self.proof]
        return {"index": self.index, "number": self.number, "size": self.size, "proof": proof}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closed:
    leaves: tuple[bytes, ...]
    callers: tuple[str, ...]
    index: int


def request_digest(*, method: str, path: str, body: bytes) -> bytes:
    """Return what stands for a request in a leaf."""
    return digest("strongroom/answer-request/v1", method.encode(), path.encode(), body)


def answer_leaf(*, job: str, caller: str, request: bytes, answer: bytes, model: str) -> bytes:
    """Return the leaf of one answer; ``request`` is its digest, ``answer`` the body as it left."""
    parts = (job.encode(), caller.encode(), request, digest("strongroom/answer-body/v1", answer), model.encode())
    return digest("strongroom/answer/v1", *parts)


def verify_receipt(receipt: Mapping[str, Any], *, leaf: bytes, facts: Mapping[str, Any]) -> None:
    """Raise LedgerError unless ``receipt`` shows ``leaf`` under the root in the ``facts`` of its ledger entry."""
    closed = facts.get("closed") or {}
    try:
        number, size = int(receipt["number"]), int(receipt["size"])
        proof = [base64.b64decode(one, validate=True) for one in receipt["proof"]]
        root = bytes.fromhex(str(closed["root"]).partition(":")[2])
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError("not the receipt of an answer") from error
    if closed.get("count") != size:
        raise LedgerError(f"the receipt is of {size} answers, the entry accounts for {closed.get('count')}")
    verify_inclusion(leaf_hash(leaf), index=number, size=size, root=root, proof=proof)


class Accounts:
    """The credit and the answers of one endpoint; ``callers`` are fingerprints.

    ``on_policy`` hears with each window that is opened what the owners' policies are then.
    """

    def __init__(
        self,
        session: Session,
        *,
        callers: Sequence[str],
        on_policy: Callable[[FusedPolicy], object] = lambda _policy: None,
        clock: Callable[[], float] = seconds_now,
    ) -> None:
        self._session = session
        self._on_policy = on_policy
        self._clock = clock
        self._lock = threading.Lock()
        self._turning = threading.Lock()  # taken before the other; only it is held while the broker is asked
        self._window = 1
        self._ends = 0.0
        self._credit: dict[str, int] = dict.fromkeys(callers, 0)
        self._wanted: dict[str, int] = dict.fromkeys(callers, LEAST_CREDIT)
        self._exhausted: dict[str, tuple[float, float]] = {}  # when the broker said so, and until when
        self._spent: Counter[str] = Counter()
        self._leaves: list[bytes] = []
        self._askers: list[str] = []
        self._refused = 0
        self._frozen: dict[str, Any] | None = None
        self._kept: OrderedDict[int, _Closed] = OrderedDict()

    def spend(self, caller: str, answers: int) -> None:
        """Take ``answers`` from the caller's credit, in a window that the ledger knows of.

        Raises QuotaError if there are not as many, AccountsError if the ledger cannot be written.
        """
        with self._lock:
            if self._take(caller, answers):
                return
        with self._turning:
            with self._lock:
                if self._take(caller, answers):  # somebody else has asked meanwhile
                    return
                if self._credit.get(caller, 0) < answers:
                    self._wanted[caller] = min(
                        MOST_WANTED, max(2 * self._wanted.get(caller, 0), answers + LEAST_CREDIT)
                    )
            self._turn(opens=True)
            with self._lock:
                if not self._take(caller, answers, fresh=True):
                    self._refused += 1
                    now = self._clock()
                    raise _too_many(caller, int(max(1.0, self._exhausted.get(caller, (now, now))[1] - now)) + 1)

    def _take(self, caller: str, answers: int, *, fresh: bool = False) -> bool:
        """Take the credit and return True, or False if the broker is to be asked; raise QuotaError if it just was.

        A window that was just opened is good for one answer however long the broker took.
        """
        now = self._clock()
        told, until = self._exhausted.get(caller, (0.0, 0.0))
        enough = self._credit.get(caller, 0) >= answers
        if now < told + ASK_AGAIN_SECONDS and not enough:
            self._refused += 1  # the broker is not asked for every request too many
            raise _too_many(caller, int(until - now) + 1)
        if not enough or (now >= self._ends and not fresh):
            return False
        self._credit[caller] -= answers
        self._spent[caller] += answers
        return True

    def record(self, caller: str, leaf: bytes) -> str:
        """Take in the leaf of an answer that is about to leave, and return its place, ``window.number``."""
        with self._lock:
            self._leaves.append(leaf)
            self._askers.append(caller)
            if self._frozen is None:
                return f"{self._window}.{len(self._leaves) - 1}"
            return f"{self._window + 1}.{len(self._leaves) - len(self._frozen['leaves']) - 1}"

    def refuse(self) -> None:
        """Count a request that was refused."""
        with self._lock:
            self._refused += 1

    def turn(self) -> None:
        """Close what was answered, and open the next window if this one is still asked for; nothing when idle."""
        with self._turning:
            with self._lock:
                due = (self._leaves or self._spent or self._frozen) and self._clock() >= self._ends - _MARGIN_SECONDS
                opens = bool(self._spent)
            if due:
                self._turn(opens=opens)

    def close(self) -> None:
        """Close what was answered, give back the credit that is left, and open nothing more."""
        with self._turning:
            with self._lock:
                due = self._leaves or self._spent or self._frozen or any(self._credit.values())
                self._credit = dict.fromkeys(self._credit, 0)
            if due:
                self._turn(opens=False)

    def receipt(self, place: str, *, caller: str) -> Receipt | None:
        """Return the receipt of the caller's answer at ``place``; none if it is nobody's or not closed yet."""
        window, _, number = place.partition(".")
        if len(place) > _LONGEST_PLACE or not (window.isdecimal() and number.isdecimal()):
            return None
        with self._lock:
            closed = self._kept.get(int(window))
        index = int(number)
        if closed is None or index >= len(closed.leaves) or closed.callers[index] != caller:
            return None
        proof = _tree(closed.leaves).inclusion_proof(index, len(closed.leaves))
        return Receipt(index=closed.index, number=index, size=len(closed.leaves), proof=tuple(proof))

    def _turn(self, *, opens: bool) -> None:
        """Ask the broker to close this window and open the next; the same is closed until it has answered.

        Only the turning lock is held meanwhile: answers that are being computed are recorded, and receipts shown.
        """
        with self._lock:
            closing = self._frozen is not None or bool(self._leaves or self._spent or self._window > 1)
            if closing and self._frozen is None:
                self._frozen = {
                    "leaves": tuple(self._leaves),
                    "askers": tuple(self._askers),
                    "spent": dict(self._spent),
                    "refused": self._refused,
                }
                # The broker may have closed the window although its answer is lost: what is left comes back there.
                self._credit, self._ends = dict.fromkeys(self._credit, 0), 0.0
            frozen, window, wanted = self._frozen, self._window, dict(self._wanted)
        asked = self._clock()
        try:
            opened = self._session.account(
                window, closes=_told(frozen) if frozen else None, opens=wanted if opens else None
            )
        except RefusedError:
            raise
        except StrongroomError as error:
            raise AccountsError(f"the ledger cannot be written: {error.message}", hint=error.hint) from error
        if opened.policy is not None:
            self._on_policy(opened.policy)  # before anything is answered in this window
        with self._lock:
            self._adopt(opened, frozen, asked=asked, opens=opens)

    def _adopt(self, opened: OpenedWindow, frozen: Mapping[str, Any] | None, *, asked: float, opens: bool) -> None:
        """Take over the window that the broker opened."""
        if frozen is not None:
            self._keep(frozen, opened.index)
        self._window += 1
        self._frozen = None
        self._ends = asked + opened.seconds if opens else 0.0
        for caller in self._credit:
            self._credit[caller] = opened.allowed.get(caller, 0)
            spent = (frozen or {}).get("spent", {}).get(caller, 0)
            # Who asked a lot a moment ago may soon again: running out of credit costs everybody a trip to the broker.
            self._wanted[caller] = min(MOST_WANTED, max(LEAST_CREDIT, 2 * spent, self._wanted[caller] // 2))
            if caller in opened.retry_after:
                self._exhausted[caller] = asked, asked + opened.retry_after[caller]
            else:
                self._exhausted.pop(caller, None)

    def _keep(self, frozen: Mapping[str, Any], index: int) -> None:
        leaves, askers = frozen["leaves"], frozen["askers"]
        self._kept[self._window] = _Closed(leaves=leaves, callers=askers, index=index)
        if len(self._kept) > KEPT_WINDOWS:
            self._kept.popitem(last=False)
        del self._leaves[: len(leaves)], self._askers[: len(askers)]
        self._spent.subtract(frozen["spent"])
        self._spent += Counter()  # forget what is back at nothing
        self._refused -= frozen["refused"]


def _told(frozen: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "count": len(frozen["leaves"]),
        "root": base64.b64encode(tree_root(frozen["leaves"])).decode(),
        "callers": frozen["spent"],
        "refused": frozen["refused"],
    }


def _tree(leaves: Sequence[bytes]) -> MerkleLog:
    log = MerkleLog(MemoryStore())
    if leaves:
        log.append(list(leaves))
    return log


def _too_many(caller: str, seconds: int) -> QuotaError:
    return QuotaError(f"the quota of caller {caller[:8]}… is used up", retry_after=seconds)
