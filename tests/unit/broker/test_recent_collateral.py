"""Collateral is fetched beside everything else, once for all who ask, and forgotten after a minute."""

import asyncio
import threading

import pytest

from strongroom.attestation.failures import CollateralError
from strongroom.broker.recent_collateral import RecentCollateral

QUOTE = b"quote -----BEGIN CERTIFICATE----- of one platform"


class Service:
    """A collateral service that answers when it is let, and counts how often it was asked."""

    def __init__(self):
        self.asked, self.may_answer, self.fails = 0, threading.Event(), False
        self.may_answer.set()

    def collateral(self, _quote):
        self.asked += 1
        assert self.may_answer.wait(30)
        if self.fails:
            raise CollateralError("the service has none")
        return f"answer {self.asked}"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_slow_service_keeps_nobody_else_waiting_and_is_asked_once():
    service = Service()
    service.may_answer.clear()
    recent = RecentCollateral(service, clock=Clock())

    async def meet():
        askers = [asyncio.create_task(recent.prepare(bytes(bytearray(QUOTE)))) for _ in range(5)]
        await asyncio.sleep(0.02)
        waited = [asker.done() for asker in askers]  # This line runs while the service still thinks.
        service.may_answer.set()
        await asyncio.gather(*askers)
        return waited

    assert asyncio.run(meet()) == [False] * 5
    assert recent.collateral(QUOTE) == "answer 1"
    assert service.asked == 1


def test_caller_who_leaves_does_not_take_the_answer_from_the_others():
    service = Service()
    service.may_answer.clear()
    recent = RecentCollateral(service, clock=Clock())

    async def meet():
        first, second = (asyncio.create_task(recent.prepare(QUOTE)) for _ in range(2))
        await asyncio.sleep(0.02)
        first.cancel()
        service.may_answer.set()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(meet())
    assert (recent.collateral(QUOTE), service.asked) == ("answer 1", 1)


def test_what_was_heard_is_asked_again_after_a_minute_and_for_another_platform():
    service, clock = Service(), Clock()
    recent = RecentCollateral(service, clock=clock)
    asyncio.run(recent.prepare(QUOTE))
    clock.now = 59.9
    asyncio.run(recent.prepare(QUOTE))
    assert recent.collateral(QUOTE) == "answer 1"
    clock.now = 60.0
    asyncio.run(recent.prepare(QUOTE))
    assert recent.collateral(QUOTE) == "answer 2"
    assert recent.collateral(QUOTE.replace(b"one", b"two")) == "answer 3"
    assert recent.collateral(b"a platform that is named by number") == "answer 4"
    assert recent.collateral(b"a platform that is named by number") == "answer 5"


def test_failure_is_told_to_all_who_waited_and_not_remembered():
    service = Service()
    service.fails = True
    recent = RecentCollateral(service, clock=Clock())

    async def meet():
        return await asyncio.gather(*(recent.prepare(QUOTE) for _ in range(3)), return_exceptions=True)

    assert [type(one) for one in asyncio.run(meet())] == [CollateralError] * 3
    service.fails = False
    asyncio.run(recent.prepare(QUOTE))
    assert (recent.collateral(QUOTE), service.asked) == ("answer 2", 2)
