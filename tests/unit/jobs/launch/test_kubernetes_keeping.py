"""A keeper makes of a pod's end what it was, even if the pod is deleted before anybody was told that it had ended."""

import contextlib
import json
import threading
import time

import pytest

from strongroom.errors import TransportError
from strongroom.jobs.launch.kubernetes.api import ClusterRefusedError
from strongroom.jobs.launch.kubernetes.failures import Trouble
from strongroom.jobs.launch.kubernetes.keeping import PodKeeper
from strongroom.jobs.launch.kubernetes.template import MemberTemplates

DRIVER, WORKER = "job-driver", "job-worker-1"


def pod(name, phase, *, code=None, reason="", leaving=False):
    status = {"phase": phase, "podIP": "10.0.0.1"}
    if code is not None:
        status["containerStatuses"] = [
            {"name": "workload", "state": {"terminated": {"exitCode": code, "reason": reason}}}
        ]
    meta = {"name": name, "resourceVersion": "1", "labels": {"strongroom.dev/role": name.split("-")[1]}}
    if leaving:
        meta["deletionTimestamp"] = "2027-01-01T00:00:00Z"
    return {"metadata": meta, "status": status}


class Told:
    """An API server's word: what it lists at first, and the events of which it tells afterwards."""

    def __init__(self, *pods):
        self.pods = list(pods)
        self.events, self.more = [], threading.Condition()
        self.created, self.silent, self.asked_events, self.taken = [], 0, [], set()

    def tell(self, kind, one):
        with self.more:
            self.events.append((kind, one))
            self.more.notify_all()

    def list(self, kind, **_selectors):
        if kind == "events":
            self.asked_events.append(time.monotonic())
            return {"items": []}
        return {"items": list(self.pods), "metadata": {"resourceVersion": "1"}}

    @contextlib.contextmanager
    def watch(self, _kind, **_selectors):
        yield self._follow()

    def _follow(self):
        told = 0
        while True:
            with self.more:
                self.more.wait(0.2)
                fresh, told = self.events[told:], len(self.events)
            yield from fresh
            if not fresh:
                yield "BOOKMARK", {"metadata": {"resourceVersion": "1"}}

    def create(self, manifest, *, what):
        name = manifest["metadata"]["name"]
        if name in self.taken:
            raise ClusterRefusedError(Trouble(sentence=f"{what}: {name} exists", remedy="", final=True), code=409)
        self.created.append(name)
        return {**manifest, "status": {"phase": "Pending"}}

    def delete(self, _kind, _name, **_more):
        return False

    @contextlib.contextmanager
    def follow_log(self, name, *, container, follow=True, tail=None, silence=None):
        del container, tail
        if name == DRIVER and self.silent:
            self.silent -= 1
            time.sleep(silence)
            raise TransportError("nothing came")
        said = [{"event": "listening", "port": 7077}, {"event": "wanted", "role": "worker", "count": 1}]
        yield iter([json.dumps(one) for one in said] if name == DRIVER else [])
        if follow:
            time.sleep(0.2)


@pytest.fixture
def kept():
    """A keeper of a job whose driver runs and whose one worker may not be replaced; and what it is told."""
    told, events = Told(pod(DRIVER, "Running"), pod(WORKER, "Running")), []
    keeper = PodKeeper(told, job="job", start_seconds=60, on_event=events.append, restarts=0, silence=0.3)
    yield keeper, told, events
    keeper.close()


def begin(keeper, *, after=0):
    command = ["worker", "--driver", "0.0.0.0:0", "--name", "x"]
    template = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "workload", "command": command}]}}
    keeper.hear()
    keeper.keep(MemberTemplates(job="job", by_role={"worker": template, "egress": template}), after=after)
    wait(lambda: keeper.port and WORKER in keeper.members)


def wait(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def ended(events):
    return [event.detail["why"] for event in events if event.kind == "ended"]


def test_worker_that_was_done_before_it_was_deleted_is_done(kept):
    keeper, told, events = kept
    begin(keeper)
    told.tell("DELETED", pod(WORKER, "Succeeded", code=0, reason="Completed"))
    wait(lambda: ended(events))
    assert ended(events) == ["done"]


def test_worker_that_failed_before_it_was_deleted_is_not_the_clusters_doing(kept):
    """A worker that is cleared away after each crash is a fault like any other, and is not replaced without end."""
    keeper, told, _ = kept
    begin(keeper)
    told.tell("DELETED", pod(WORKER, "Failed", code=137, reason="OOMKilled"))
    wait(lambda: keeper.trouble)
    assert "memory" in keeper.trouble
    assert told.created == []


@pytest.mark.parametrize("kind", ["DELETED", "MODIFIED"])
def test_worker_that_was_told_to_leave_costs_no_restart_whatever_code_it_ended_with(kept, kind):
    keeper, told, _ = kept
    begin(keeper)
    told.tell(kind, pod(WORKER, "Failed", code=143, reason="Error", leaving=True))
    wait(lambda: told.created)
    assert keeper.trouble == ""


def test_driver_that_ran_out_of_memory_before_it_was_deleted_is_told_so(kept):
    keeper, told, _ = kept
    begin(keeper)
    told.tell("DELETED", pod(DRIVER, "Failed", code=137, reason="OOMKilled"))
    wait(lambda: not keeper.running())
    assert "memory" in keeper.driver_end().message
    assert "was deleted" not in keeper.driver_end().message


def test_driver_that_is_deleted_while_it_runs_is_lost(kept):
    keeper, told, _ = kept
    begin(keeper)
    told.tell("DELETED", pod(DRIVER, "Running", leaving=True))
    wait(lambda: not keeper.running())
    assert "was deleted while the job needed it" in keeper.driver_end().message


def test_log_whose_connection_died_without_a_word_is_asked_for_again(kept):
    keeper, told, _ = kept
    told.silent = 2
    begin(keeper)
    assert keeper.port == 7077


def test_many_pods_that_wait_are_not_as_many_requests(kept):
    keeper, told, _ = kept
    told.pods += [pod(f"job-worker-{number}", "Pending") for number in range(2, 200)]
    begin(keeper)
    time.sleep(1.2)
    keeper.close()
    assert 0 < len(told.asked_events) <= 10 * 4  # ten at a look, two looks a second, and those at both ends


def test_pod_that_an_earlier_keeper_made_is_no_trouble(kept):
    keeper, told, _ = kept
    told.taken = {"job-worker-2"}
    begin(keeper)
    told.tell("DELETED", pod(WORKER, "Running", leaving=True))
    wait(lambda: told.created)
    assert told.created == ["job-worker-3"]
    assert keeper.trouble == ""


def test_name_that_an_earlier_keeper_gave_is_not_given_again(kept):
    """Its pod may be gone; what the history says of it would be taken for the new one's."""
    keeper, told, _ = kept
    begin(keeper, after=7)
    told.tell("DELETED", pod(WORKER, "Running", leaving=True))
    wait(lambda: told.created)
    assert told.created == ["job-worker-8"]
