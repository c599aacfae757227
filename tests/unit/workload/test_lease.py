"""A lease is given up when it ends, whatever the broker, the network or the clock do."""

import threading
import time

from strongroom.errors import RefusedError, TransportError
from strongroom.workload.lease import LeaseKeeper
from strongroom.workload.pulse import seconds_now


class Holder:
    def __init__(self):
        self.lost, self.at, self._event = [], 0.0, threading.Event()

    def lose(self, reasons):
        self.lost.append(tuple(reasons))
        self.at = time.monotonic()
        self._event.set()

    def wait(self, seconds=10):
        assert self._event.wait(seconds), "the lease was not given up"
        return self.lost[0]


def keep(renew, *, seconds=0.6, clock=seconds_now):
    holder = Holder()
    keeper = LeaseKeeper(renew, seconds=seconds, asked=clock(), on_lost=holder.lose, clock=clock)
    keeper.start()
    return holder, keeper


def test_lease_is_kept_as_long_as_it_is_renewed():
    holder, keeper = keep(lambda: 0.6)
    time.sleep(1.5)
    keeper.stop()
    assert holder.lost == []


def test_refused_renewal_ends_it_once_with_every_reason():
    def refuse():
        raise RefusedError("no", reasons=("it is revoked", "it expired"))

    holder, _ = keep(refuse)
    assert holder.wait() == ("it is revoked", "it expired")
    time.sleep(0.8)
    assert len(holder.lost) == 1


def test_broker_that_never_answers_does_not_stretch_the_lease():
    hang = threading.Event()
    began = time.monotonic()
    holder, _ = keep(lambda: hang.wait(60) or 0.6)
    (reason,) = holder.wait()
    assert "the lease ended" in reason
    assert 0.5 < holder.at - began < 5
    hang.set()


def test_broker_that_cannot_be_reached_is_asked_again_until_the_lease_ends():
    asked = []

    def fail():
        asked.append(1)
        raise TransportError("nobody listens")

    holder, _ = keep(fail, seconds=1.2)
    assert "nobody listens" in holder.wait()[0]
    assert len(asked) >= 2


def test_broker_that_comes_back_in_time_is_enough():
    answers = iter([TransportError("it restarts"), TransportError("it restarts"), *[1.5] * 20])

    def renew():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    holder, keeper = keep(renew, seconds=1.5)
    time.sleep(2.5)
    keeper.stop()
    assert holder.lost == []


def test_machine_that_slept_past_the_end_gives_up_at_once():
    slept = [0.0]
    holder, _ = keep(lambda: 3600.0, seconds=3600, clock=lambda: seconds_now() + slept[0])
    slept[0] = 4000.0
    assert "the lease ended" in holder.wait(5)[0]


def test_answer_that_comes_after_the_end_revives_nothing():
    late = threading.Event()
    holder, _ = keep(lambda: late.wait(60) or 3600.0, seconds=0.5)
    holder.wait()
    late.set()
    time.sleep(0.3)
    assert len(holder.lost) == 1


def test_error_that_nobody_foresaw_is_no_renewal_and_quotes_nothing():
    def fail():
        raise ValueError("salary of Alice: 100")

    holder, _ = keep(fail)
    (reason,) = holder.wait()
    assert "ValueError" in reason
    assert "Alice" not in reason
