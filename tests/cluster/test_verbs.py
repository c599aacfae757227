"""The verbs that people use on a cluster: what is there, how it stands, what it said, and its end."""

import json

import pytest
from lab import Desk, wait_until
from small_world import LONG_QUERY, Background

from strongroom.cli.journey import run
from strongroom.errors import StrongroomError


@pytest.fixture
def desk(lab, tmp_path, monkeypatch):
    return Desk.open(lab, tmp_path, monkeypatch)


def test_running_job_is_listed_shown_read_out_and_cancelled(lab, desk, capsys):
    events = []
    job = Background(
        lambda: lab.run(job=lab.world.write_job(program=LONG_QUERY), on_event=lambda name, _facts: events.append(name))
    )
    wait_until(lambda: "program-started" in events)
    (listed,) = desk.answer(capsys, "job", "list")["jobs"]
    assert (listed["name"], listed["state"]) == ("baskets", "Running")
    status = desk.answer(capsys, "job", "status", listed["job"])
    assert [pod["role"] for pod in status["pods"]] == ["driver", "egress"]
    assert desk.answer(capsys, "job", "status", listed["digest"][:20])["job"] == listed["job"]
    said = [json.loads(line) for line in desk.answer(capsys, "job", "logs", listed["job"])["lines"]]
    assert said[0]["event"] == "listening"
    assert desk.answer(capsys, "job", "cancel", listed["job"])["was"] == "Running"
    with pytest.raises(StrongroomError):
        job.outcome(120)
    wait_until(lambda: desk.answer(capsys, "job", "list")["jobs"] == [])


def test_job_that_is_not_there_is_a_mistake_with_a_list(lab, desk, capsys):
    error = desk.answer(capsys, "job", "status", "nothing", code=2)["error"]
    assert "no job 'nothing' in" in error["message"]


def test_dry_run_shows_every_object_and_creates_none(lab, desk, capsys):
    import yaml

    words = ["submit", lab.world.write_job(), "--cluster", "k8s"]
    words += ["--platform", lab.world.platform.directory, "--dry-run"]
    objects = desk.answer(capsys, *words)["objects"]
    assert [one["kind"] for one in objects] == ["Pod", "ConfigMap", "NetworkPolicy", "Pod"]
    assert lab.names("pods") == []
    kept = desk.answer(capsys, *words, "--detach")["objects"]
    assert [one["metadata"]["name"].rpartition("-")[2] for one in kept if one not in objects] == ["keeper", "keeper"]
    assert run([*map(str, words), "--settings", str(desk.file)]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == objects
