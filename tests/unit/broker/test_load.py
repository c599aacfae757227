"""A broker is busy while it spends most of one core's time, and not a moment longer than it takes to see that."""

import pytest

from strongroom.broker.load import BUSY_SHARE, WINDOW_SECONDS, Load


class Machine:
    """A clock, and the processor time that one process spent."""

    def __init__(self):
        self.passed, self.spent = 100.0, 7.0
        self.load = Load(passed=lambda: self.passed, spent=lambda: self.spent)

    def run(self, seconds, share):
        self.passed += seconds
        self.spent += seconds * share
        return self.load.is_busy()


@pytest.mark.parametrize(("share", "busy"), [(0.0, False), (BUSY_SHARE - 0.05, False), (BUSY_SHARE + 0.05, True)])
def test_share_of_one_core_decides(share, busy):
    assert Machine().run(WINDOW_SECONDS * 2, share) is busy


def test_start_counts_as_idle_until_a_window_is_over():
    machine = Machine()
    assert not machine.load.is_busy()
    assert not machine.run(WINDOW_SECONDS / 2, 1.0)
    assert machine.run(WINDOW_SECONDS / 2 + 0.001, 1.0)


def test_broker_that_rested_is_not_busy_by_what_it_did_before():
    machine = Machine()
    assert machine.run(1.0, 1.0)
    assert not machine.run(10.0, 0.01)
