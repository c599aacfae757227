"""Calls of one session come one after the other, and a renewal does not wait behind a crowd of admissions."""

import threading
import time

import pytest

from strongroom.broker.turns import Turns


def test_urgent_call_goes_before_all_that_wait():
    turns, order, ready = Turns(), [], threading.Barrier(9)

    def call(name: str, *, urgent: bool) -> None:
        ready.wait()
        with turns.take(urgent=urgent):
            order.append(name)
            time.sleep(0.01)

    crowd = [threading.Thread(target=call, args=(f"admission-{n}",), kwargs={"urgent": False}) for n in range(8)]
    for one in crowd:
        one.start()
    with turns.take():
        ready.wait()
        time.sleep(0.05)  # now all of the crowd wait
        renewal = threading.Thread(target=lambda: _renew(turns, order))
        renewal.start()
        time.sleep(0.05)
    for one in [*crowd, renewal]:
        one.join(10)
    assert order[0] == "renewal"
    assert len(order) == 9


def _renew(turns: Turns, order: list[str]) -> None:
    with turns.take(urgent=True):
        order.append("renewal")


def test_holder_may_take_its_turn_again():
    turns = Turns()
    with turns.take(), turns.take(urgent=True):
        pass
    with turns.take():
        pass


def test_turn_is_given_back_when_a_call_fails():
    turns = Turns()
    with pytest.raises(ValueError), turns.take():
        raise ValueError
    with turns.take():
        pass
