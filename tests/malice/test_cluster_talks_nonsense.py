"""The cluster answers what nobody expects: JSON nested without end, lists of nothing, pods without a name."""

import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from strongroom.jobs.launch.kubernetes.history import read_history
from strongroom.jobs.launch.kubernetes.watching import PodWatch
from strongroom.jobs.launch.placement import say_lines

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


def test_history_that_somebody_damaged_spoils_no_list():
    found = read_history({"metadata": {"labels": {}}, "data": {"client.json": DEEP, "keeper.json": DEEP}})
    assert found.state == "submitted"
    assert found.events == ()


def test_process_that_says_something_deep_is_heard_on():
    program = f'print({DEEP!r}); print(\'{{"event": "listening"}}\')'
    process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    assert list(say_lines(process)) == [{"event": "listening"}]
    process.wait(10)
