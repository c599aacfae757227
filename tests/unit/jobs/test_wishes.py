"""What a driver wants alive, up and down, and what becomes of those that end."""

import pytest

from strongroom.jobs.launch.wishes import SHORT_LIFE_SECONDS, Wishes

LONG = SHORT_LIFE_SECONDS + 1


@pytest.fixture
def wishes():
    made = Wishes(restarts=2)
    made.take("worker", 3)
    return made


def test_drivers_word_replaces_the_clients_foresight():
    wishes = Wishes(restarts=2)
    wishes.foresee("worker", 4)
    assert wishes.missing({}, now=0) == ["worker"] * 4
    wishes.take("worker", 1)
    wishes.foresee("worker", 4)
    assert wishes.missing({}, now=0) == ["worker"]


def test_more_are_started_and_fewer_are_left_to_the_driver_for_half_a_minute(wishes):
    wishes.take("worker", 5)
    assert wishes.missing({"worker": 3}, now=0) == ["worker", "worker"]
    wishes.take("worker", 2)
    assert wishes.missing({"worker": 5}, now=0) == []
    assert wishes.surplus({"worker": 5}, now=0) == {}
    assert wishes.surplus({"worker": 4}, now=29) == {}
    assert wishes.surplus({"worker": 3}, now=31) == {"worker": 1}


def test_half_a_minute_begins_anew_after_the_count_was_right(wishes):
    wishes.surplus({"worker": 4}, now=0)
    wishes.surplus({"worker": 3}, now=20)
    assert wishes.surplus({"worker": 4}, now=40) == {}


def test_member_that_left_well_is_replaced_without_counting_but_not_at_once(wishes):
    for round_ in range(5):
        assert wishes.end("worker", well=True, lived=LONG, now=round_ * 10)
    assert wishes.missing({"worker": 2}, now=40.5) == []
    assert wishes.missing({"worker": 2}, now=41.5) == ["worker"]


def test_member_that_fails_or_leaves_at_once_is_replaced_as_often_as_may_be(wishes):
    assert wishes.end("worker", well=False, lived=LONG, now=0)
    assert wishes.end("worker", well=True, lived=1, now=0)
    assert not wishes.end("worker", well=False, lived=LONG, now=0)
    assert wishes.missing({"worker": 2}, now=10) == []


def test_nobody_is_missed_when_all_is_over(wishes):
    wishes.clear()
    for _ in range(5):
        assert wishes.end("worker", well=False, lived=1, now=0)
    assert wishes.missing({}, now=10) == []
    wishes.surplus({"worker": 3}, now=10)
    assert wishes.surplus({"worker": 3}, now=100) == {}


def test_driver_cannot_fill_a_host(wishes):
    wishes.take("worker", 10**9)
    assert len(wishes.missing({}, now=0)) == 10_000
    wishes.take("worker", -5)
    assert wishes.missing({}, now=0) == []
