"""The verbs that people use on a cluster: what is there, how it stands, what it said, and its end."""

import json

import pytest
from lab import settings_text
from small_world import LONG_QUERY, Background, wait_until

from strongroom.cli.journey import run
from strongroom.errors import StrongroomError


@pytest.fixture
def desk(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(lab.cluster.kubeconfig))
    file = tmp_path / "cluster.toml"
    file.write_text(settings_text(lab.world))
    return file


def answer(capsys, *words: object, code: int = 0) -> dict:
    capsys.readouterr()
    assert run([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_running_job_is_listed_shown_read_out_and_cancelled(lab, desk, capsys):
    events = []
    job = Background(
        lambda: lab.run(job=lab.world.write_job(program=LONG_QUERY), on_event=lambda name, _facts: events.append(name))
    )
    wait_until(lambda: "program-started" in events)
    (listed,) = answer(capsys, "job", "list", "--settings", desk)["jobs"]
    assert (listed["name"], listed["state"]) == ("baskets", "Running")
    status = answer(capsys, "job", "status", listed["job"], "--settings", desk)
    assert [pod["role"] for pod in status["pods"]] == ["driver", "egress"]
    assert answer(capsys, "job", "status", listed["digest"][:20], "--settings", desk)["job"] == listed["job"]
    said = [json.loads(line) for line in answer(capsys, "job", "logs", listed["job"], "--settings", desk)["lines"]]
    assert said[0]["event"] == "listening"
    assert answer(capsys, "job", "cancel", listed["job"], "--settings", desk)["was"] == "Running"
    with pytest.raises(StrongroomError):
        job.outcome()
    wait_until(lambda: answer(capsys, "job", "list", "--settings", desk)["jobs"] == [])


def test_job_that_is_not_there_is_a_mistake_with_a_list(lab, desk, capsys):
    error = answer(capsys, "job", "status", "nothing", "--settings", desk, code=2)["error"]
    assert "no job 'nothing' in jobs" in error["message"]


def test_dry_run_shows_every_object_and_creates_none(lab, desk, capsys):
    import yaml

    words = ["submit", lab.world.write_job(), "--cluster", "k8s", "--settings", desk]
    words += ["--platform", lab.world.platform.directory, "--dry-run"]
    objects = answer(capsys, *words)["objects"]
    assert [one["kind"] for one in objects] == ["Pod", "ConfigMap", "NetworkPolicy", "Pod"]
    assert lab.cluster.requests == []
    assert run([*map(str, words)]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == objects
