"""The cluster answers what nobody expects: JSON nested without end, lists of nothing, pods without a name."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from strongroom.jobs.launch.kubernetes.failures import explain_refusal
from strongroom.jobs.launch.kubernetes.history import HistoryWriter, read_history
from strongroom.jobs.launch.kubernetes.keeping import PodKeeper
from strongroom.jobs.launch.kubernetes.watching import PodWatch
from strongroom.jobs.launch.placement import PlacementEvent, say_lines

DEEP = "[" * 60_000


class Cluster:
    """Gives ``answers`` to one list after the other, the last of them for ever, and never tells of a change."""

    def __init__(self, *answers, events=()):
        self.answers, self.events = list(answers), events

    def list(self, _kind, *, labels):
        assert labels
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @contextmanager
    def watch(self, _kind, *, labels, version):
        assert labels
        assert version
        time.sleep(0.01)
        events, self.events = self.events, ()
        yield iter(events)


POD = {"metadata": {"name": "job-driver", "resourceVersion": "1"}}
GOOD = {"items": [POD], "metadata": {"resourceVersion": "7"}}


@pytest.mark.parametrize(
    ("answers", "events"),
    [
        ([{}, GOOD], ()),
        ([{"items": None, "metadata": {}}, GOOD], ()),
        ([{"items": [{"metadata": []}], "metadata": {"resourceVersion": "1"}}, GOOD], ()),
        ([{"items": [], "metadata": {"resourceVersion": "1"}}, GOOD], [("ADDED", {"metadata": None})]),
        ([{"items": [], "metadata": {"resourceVersion": "1"}}, GOOD], [("ADDED", "a pod")]),
    ],
)
def test_whoever_watches_pods_goes_on_watching(answers, events):
    changed = threading.Event()
    watch = PodWatch(Cluster(*answers, events=events), labels="job=x", on_change=changed.set)
    watch.start()
    until = time.monotonic() + 10
    while watch.pod("job-driver") is None:
        assert time.monotonic() < until, "it watches no more"
        time.sleep(0.02)
    watch.close()


@pytest.mark.parametrize(
    "said",
    [
        {"event": "listening", "port": float("inf")},
        {"event": "listening", "port": 10**40},
        {"event": "listening", "port": -1},
        {"event": "listening", "port": True},
        {"event": "wanted", "role": "worker", "count": float("inf")},
        {"event": "wanted", "role": "worker", "count": float("nan")},
    ],
)
def test_driver_that_says_impossible_numbers_is_heard_on(said):
    keeper = PodKeeper(None, job="job", start_seconds=1)
    keeper._take_word(json.dumps(said))
    assert keeper.port == 0
    assert keeper._missing() == []
    keeper._take_word(json.dumps({"event": "listening", "port": 7443}))
    assert keeper.port == 7443


def test_refusal_with_a_code_that_is_no_number_is_explained():
    trouble = explain_refusal({"code": float("inf"), "message": "no"}, what="make a pod", namespace="jobs")
    assert "could not make a pod now: no" in trouble.sentence


def test_history_of_numbers_without_end_stays_small_enough_to_be_kept():
    kept = []

    class Map:
        def patch(self, _kind, _name, body):
            kept.append(body["data"])

    writer = HistoryWriter(Map(), job="job", part="client.json")
    for number in range(300):
        detail = {"event": "wanted", "role": "worker", "count": int("9" * 4000) + number}
        writer.take(PlacementEvent(kind="said", role="driver", detail=detail))
    writer.flush(at_once=True)
    assert len(kept[0]["client.json"]) < 1 << 18


def test_history_that_somebody_damaged_spoils_no_list():
    found = read_history({"metadata": {"labels": {}}, "data": {"client.json": DEEP, "keeper.json": DEEP}})
    assert found.state == "submitted"
    assert found.events == ()


def test_process_that_says_something_deep_is_heard_on():
    program = f'print({DEEP!r}); print(\'{{"event": "listening"}}\')'
    process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    assert list(say_lines(process)) == [{"event": "listening"}]
    process.wait(10)
