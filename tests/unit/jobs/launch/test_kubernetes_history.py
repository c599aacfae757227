"""What is remembered of a job on a cluster: bounded, merged from two writers, and never more than the host may know."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from strongroom.errors import TransportError
from strongroom.jobs.launch.kubernetes.history import CLIENT, KEEPER, HistoryWriter, prunable, read_history
from strongroom.jobs.launch.kubernetes.template import MemberTemplates
from strongroom.jobs.launch.placement import PlacementError, PlacementEvent

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class OneMap:
    """A cluster with one config map, which can be out of reach."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.reachable = True
        self.writes = 0

    def patch(self, _kind, _name, change):
        if not self.reachable:
            raise TransportError("it does not answer")
        self.writes += 1
        self.data |= change["data"]

    def get(self, _kind, _name):
        return self.map()

    def map(self):
        notes = {"strongroom.dev/job-digest": "sha384:00", "strongroom.dev/job-name": "delays"}
        return {"metadata": {"labels": {"strongroom.dev/job": "delays-1"}, "annotations": notes}, "data": self.data}


def said(event: str, **facts: object) -> PlacementEvent:
    return PlacementEvent(kind="said", role="driver", detail={"event": event, **facts})


def test_client_and_keeper_write_one_course_of_events():
    found = OneMap()
    times = iter(NOW + timedelta(seconds=n) for n in range(100))
    client = HistoryWriter(found, job="delays-1", part=CLIENT, about={"kind": "sql"}, clock=lambda: next(times))
    keeper = HistoryWriter(found, job="delays-1", part=KEEPER, clock=lambda: next(times))
    client.note("handed-over")
    keeper.take(said("stage", name="keys-released"))
    client.flush(at_once=True)
    keeper.end("failed", why="evicted")
    keeper.end("done")
    keeper.flush(at_once=True)
    told = read_history(found.map())
    assert [one["what"] for one in told.events] == ["handed-over", "keys-released"]
    assert (told.state, told.why, told.title, told.about["kind"]) == ("failed", "evicted", "delays", "sql")


def test_history_is_bounded_and_keeps_its_beginning_and_its_end():
    found = OneMap()
    keeper = HistoryWriter(found, job="delays-1", part=KEEPER)
    for number in range(1000):
        keeper.note("worker-started", pod=f"worker-{number}")
    keeper.flush(at_once=True)
    events = read_history(found.map()).events
    assert len(events) == 200
    assert {events[0]["pod"], events[-1]["pod"]} == {"worker-0", "worker-999"}


def test_word_of_a_driver_is_cut_to_what_a_history_holds():
    """Attack: a driver, or whoever writes to its log, floods the history."""
    found = OneMap()
    keeper = HistoryWriter(found, job="delays-1", part=KEEPER)
    keeper.take(said("failed", kind="k" * 10_000, message="m" * 10_000, secret="s" * 10))
    keeper.take(said("stage", name="x" * 10_000))
    keeper.take(said("report", sealed="r" * (1 << 20)))
    keeper.flush(at_once=True)
    assert len(json.dumps(found.data)) < 140_000
    assert "secret" not in found.data[KEEPER]


def test_what_could_not_be_written_is_written_later():
    found = OneMap()
    keeper = HistoryWriter(found, job="delays-1", part=KEEPER)
    found.reachable = False
    keeper.note("worker-started")
    keeper.flush(at_once=True)
    found.reachable = True
    keeper.flush(at_once=True)
    assert [one["what"] for one in read_history(found.map()).events] == ["worker-started"]


def test_keeper_that_starts_anew_does_not_tell_twice_what_it_hears_again():
    found = OneMap()
    first = HistoryWriter(found, job="delays-1", part=KEEPER)
    first.take(said("stage", name="keys-released"))
    first.flush(at_once=True)
    again = HistoryWriter(found, job="delays-1", part=KEEPER)
    again.resume()
    again.take(said("stage", name="keys-released"))
    again.take(said("stage", name="program-started"))
    again.flush(at_once=True)
    assert [one["what"] for one in read_history(found.map()).events] == ["keys-released", "program-started"]


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"events": 7}', '{"events": [1, null]}', '{"end": "x"}'])
def test_damaged_history_is_shown_as_far_as_it_goes(text):
    found = OneMap()
    found.data = {CLIENT: text, KEEPER: text}
    assert read_history(found.map()).events == ()


def test_old_and_superfluous_histories_go():
    maps = [
        {"metadata": {"name": f"h{age}", "creationTimestamp": (NOW - timedelta(days=age)).strftime("%FT%TZ")}}
        for age in (0, 1, 2, 40)
    ]
    assert prunable(maps, now=NOW, keep=10, days=30) == ["h40"]
    assert prunable(maps, now=NOW, keep=2, days=365) == ["h2", "h40"]


@pytest.mark.parametrize("value", [None, [], {}, {"job": "a", "pods": {"worker": {}}}, {"job": "a", "pods": 7}])
def test_damaged_templates_are_refused(value):
    with pytest.raises(PlacementError):
        MemberTemplates.decode(value)
