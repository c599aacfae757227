"""The host hears one number of workers, within what the analyst signed."""

import pytest

from strongroom.workload.staffing import Staffing, count_wanted


@pytest.mark.parametrize(
    ("asked", "staying", "leaving", "wanted"),
    [
        (2, 0, 0, 2),  # the beginning
        (5, 2, 0, 5),  # Spark wants more
        (99, 2, 0, 8),  # never more than was signed
        (1, 4, 0, 4),  # Spark wants fewer, and has not said whom it lets go
        (1, 3, 1, 4),  # now it has: the one that leaves is still there
        (2, 1, 1, 3),  # a drained worker's successor may start before it is gone
        (0, 0, 0, 0),
    ],
)
def test_count_is_what_spark_asks_or_who_stays_and_who_leaves(asked, staying, leaving, wanted):
    assert count_wanted(asked=asked, most=8, staying=staying, leaving=leaving) == wanted


def test_host_hears_a_number_when_it_changes_and_nothing_after_the_end():
    said = []
    staffing = Staffing(workers=1, most=3, say=said.append)
    staffing.note(staying=1, leaving=0)
    staffing.ask(1000)
    staffing.note(staying=3, leaving=0)
    staffing.ask(1)
    staffing.note(staying=2, leaving=1)
    staffing.note(staying=2, leaving=0)
    staffing.end()
    staffing.ask(3)
    staffing.note(staying=0, leaving=0)
    assert said == [1, 3, 2, 0]
