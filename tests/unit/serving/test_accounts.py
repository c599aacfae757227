"""Credit is spent before an answer and accounted for afterwards, whatever the broker does in between."""

import base64
import threading

import pytest

from strongroom.broker.names import MOST_WANTED
from strongroom.broker.workload_session import OpenedWindow
from strongroom.errors import LedgerError, RefusedError, TransportError
from strongroom.serving.accounts import (
    LEAST_CREDIT,
    Accounts,
    AccountsError,
    QuotaError,
    answer_leaf,
    request_digest,
    verify_receipt,
)

ANN, BOB = "a" * 32, "b" * 32


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Book:
    """Plays the broker: allows so much, remembers what it was told, and fails when it is told to."""

    def __init__(self, allowed=10**6):
        self.allowed, self.asked, self.failures, self.retry = allowed, [], [], {}

    def account(self, window, *, closes, opens):
        self.asked.append((window, closes, opens))
        if self.failures:
            raise self.failures.pop(0)
        allowed = {caller: min(wanted, self.allowed) for caller, wanted in (opens or {}).items()}
        retry = {caller: 60 for caller, wanted in (opens or {}).items() if wanted > self.allowed}
        return OpenedWindow(allowed=allowed, retry_after=retry, seconds=5.0, index=100 + len(self.asked))

    def facts(self, window):
        closes = next(closes for number, closes, _ in reversed(self.asked) if number == window)
        return {"closed": {**closes, "root": "sha256:" + base64.b64decode(closes["root"]).hex()}}


def opened(**book):
    made, clock = Book(**book), Clock()
    return Accounts(made, callers=[ANN, BOB], clock=clock), made, clock


def leaf(number):
    asked = request_digest(method="POST", path="/", body=b"%d" % number)
    return answer_leaf(job="job", caller=ANN, request=asked, answer=b"yes", model="m@1")


def test_nothing_is_answered_before_a_window_stands_in_the_ledger():
    accounts, book, _ = opened()
    book.failures = [TransportError("the disk is full")]
    with pytest.raises(AccountsError, match="cannot be written"):
        accounts.spend(ANN, 1)
    accounts.spend(ANN, 1)
    assert [(window, closes) for window, closes, _ in book.asked] == [(1, None), (1, None)]
    assert book.asked[1][2][BOB] == LEAST_CREDIT


def test_answers_are_recorded_and_receipts_shown_while_the_broker_is_slow():
    accounts, book, clock = opened()
    accounts.spend(ANN, 2)
    first = accounts.record(ANN, leaf(1))
    clock.now += 10
    accounts.turn()
    accounts.spend(ANN, 1)
    answer, asked, plain = threading.Event(), threading.Event(), book.account

    def slow(window, **more):
        asked.set()
        assert answer.wait(20)
        return plain(window, **more)

    book.account = slow
    clock.now += 10
    turning = threading.Thread(target=accounts.turn)
    turning.start()
    try:
        assert asked.wait(20)
        done = []

        def meanwhile():
            accounts.refuse()
            done.append(accounts.receipt(first, caller=ANN))
            done.append(accounts.record(ANN, leaf(2)))

        other = threading.Thread(target=meanwhile, daemon=True)
        other.start()
        other.join(5)
        assert not other.is_alive()
    finally:
        answer.set()
        turning.join(20)
    receipt, place = done
    assert receipt.index == 102
    clock.now += 10
    accounts.turn()
    verify_receipt(
        accounts.receipt(place, caller=ANN).encode(), leaf=leaf(2), facts=book.facts(int(place.partition(".")[0]))
    )


def test_one_asks_the_broker_for_all_who_want_a_window():
    accounts, book, _ = opened()
    answer, plain = threading.Event(), book.account

    def slow(window, **more):
        assert answer.wait(20)
        return plain(window, **more)

    book.account = slow
    callers = [threading.Thread(target=accounts.spend, args=(ANN, 1)) for _ in range(8)]
    for one in callers:
        one.start()
    answer.set()
    for one in callers:
        one.join(20)
    assert len(book.asked) == 1


def test_one_window_serves_many_answers_and_idle_endpoints_write_nothing():
    accounts, book, clock = opened()
    for number in range(50):
        accounts.spend(ANN, 1)
        accounts.record(ANN, leaf(number))
    assert len(book.asked) == 1
    clock.now += 10
    accounts.turn()
    assert book.asked[1][1]["count"] == 50
    assert book.asked[1][1]["callers"] == {ANN: 50}
    for _ in range(5):
        clock.now += 10
        accounts.turn()
    assert len(book.asked) == 2


def test_receipt_leads_from_an_answer_to_the_root_in_the_ledger():
    accounts, book, clock = opened()
    places = []
    for number in range(7):
        accounts.spend(ANN, 1)
        places.append(accounts.record(ANN, leaf(number)))
    assert accounts.receipt(places[3], caller=ANN) is None, "its window is still open"
    clock.now += 10
    accounts.turn()
    for number, place in enumerate(places):
        receipt = accounts.receipt(place, caller=ANN)
        verify_receipt(receipt.encode(), leaf=leaf(number), facts=book.facts(2))
        with pytest.raises(LedgerError):
            verify_receipt(receipt.encode(), leaf=leaf(number + 1), facts=book.facts(2))
    assert accounts.receipt(places[0], caller=BOB) is None
    assert accounts.receipt("9.9", caller=ANN) is None
    assert accounts.receipt("nonsense", caller=ANN) is None


def test_same_answers_are_closed_once_although_the_broker_failed_in_between():
    accounts, book, clock = opened()
    accounts.spend(ANN, 1)
    first = accounts.record(ANN, leaf(0))
    clock.now += 10
    book.failures = [TransportError("gone"), TransportError("gone")]
    for _ in range(2):
        with pytest.raises(AccountsError):
            accounts.turn()
    second = accounts.record(ANN, leaf(1))  # an answer that was under way
    accounts.turn()
    asked = [closes["count"] for _, closes, _ in book.asked if closes]
    assert asked == [1, 1, 1], "what is closed does not change between attempts"
    accounts.close()
    assert book.asked[-1][1]["count"] == 1
    for place, number, window in ((first, 0, 2), (second, 1, 3)):
        verify_receipt(accounts.receipt(place, caller=ANN).encode(), leaf=leaf(number), facts=book.facts(window))


def test_caller_without_credit_is_told_when_to_come_back_and_the_broker_is_left_alone():
    accounts, book, clock = opened(allowed=3)
    accounts.spend(ANN, 3)
    with pytest.raises(QuotaError) as caught:
        accounts.spend(ANN, 1)
    assert 59 <= caught.value.retry_after <= 61
    asked = len(book.asked)
    for _ in range(10):
        with pytest.raises(QuotaError):
            accounts.spend(ANN, 4)
    assert len(book.asked) == asked
    accounts.spend(BOB, 1)
    clock.now += 6
    book.allowed = 10**6
    accounts.spend(ANN, 1)


def test_policy_that_says_no_is_told_with_its_reasons():
    accounts, book, _ = opened()
    book.failures = [RefusedError("no", reasons=("dataset 'm' is revoked by its owner, must not be",))]
    with pytest.raises(RefusedError) as caught:
        accounts.spend(ANN, 1)
    assert "revoked" in caught.value.reasons[0]


def test_end_closes_what_was_answered_and_opens_nothing():
    accounts, book, _ = opened()
    accounts.spend(ANN, 2)
    accounts.record(ANN, leaf(0))
    accounts.close()
    assert book.asked[-1][2] is None
    assert book.asked[-1][1]["callers"] == {ANN: 2}


def test_end_gives_back_the_credit_of_a_window_from_which_nothing_was_asked():
    accounts, book, clock = opened()
    accounts.spend(ANN, 1)
    accounts.record(ANN, leaf(0))
    clock.now += 5
    accounts.turn()  # the next window is opened, for there was a request a moment ago
    accounts.close()
    number, closes, opens = book.asked[-1]
    assert (number, closes["count"], closes["callers"], opens) == (3, 0, {}, None)
    accounts.close()
    assert len(book.asked) == 3


def test_credit_of_a_window_that_is_being_closed_is_not_spent():
    """Whoever cuts the endpoint off from the broker just then would have it given back there and spent here."""
    accounts, book, clock = opened()
    accounts.spend(ANN, 1)
    clock.now += 4.5
    book.failures = [TransportError("cut off"), TransportError("cut off")]
    with pytest.raises(AccountsError):
        accounts.turn()
    with pytest.raises(AccountsError):
        accounts.spend(ANN, 1)
    accounts.spend(ANN, 1)
    clock.now += 10
    accounts.turn()
    assert [closes["callers"] for _, closes, _ in book.asked if closes] == [{ANN: 1}] * 3 + [{ANN: 1}]


def test_every_window_brings_what_the_owners_permit_then():
    heard = []
    book = Book()
    book.account = lambda window, *, closes, opens: OpenedWindow(
        allowed={ANN: 9}, retry_after={}, seconds=5.0, index=window, policy=f"policy of window {window}"
    )
    clock = Clock()
    accounts = Accounts(book, callers=[ANN], clock=clock, on_policy=heard.append)
    accounts.spend(ANN, 1)
    clock.now += 10
    accounts.spend(ANN, 1)
    assert heard == ["policy of window 1", "policy of window 2"]


def test_place_of_a_receipt_that_is_no_place_is_nobodys():
    accounts, _, _ = opened()
    assert accounts.receipt("9" * 5000 + ".1", caller=ANN) is None


def test_callers_who_ask_while_the_broker_is_away_do_not_ask_it_for_more_than_it_hears():
    accounts, book, _ = opened()
    book.failures = [TransportError("cut off")] * 40
    for _ in range(40):
        with pytest.raises(AccountsError):
            accounts.spend(ANN, 1)
    accounts.spend(ANN, 1)
    assert book.asked[-1][2][ANN] == MOST_WANTED
