"""A job that its client leaves: a keeper in the cluster makes its pods, and the analyst comes back when it likes."""

import json

import pytest
from api_server import KEEPER_TOKEN, NAMESPACE
from lab import Desk, wait_until
from small_world import LONG_QUERY, Background, expected_answer

from strongroom.errors import EnvelopeError, EvidenceError, RefusedError, StrongroomError
from strongroom.jobs.launch.kubernetes.board import Board
from strongroom.jobs.launch.kubernetes.returning import follow_left


def follow(lab, left, *, on_event=lambda _name, _facts: None):
    return follow_left(
        lab.host(),
        left.name,
        attach=lambda address: lab.world.analyst.attach(left, address, on_event=on_event),
        read=lambda sealed: lab.world.analyst.read_report(left, sealed, on_event=on_event),
    )


def keepers(lab, left):
    return [name for name in lab.names("pods") if name.startswith(f"{left.name}-keeper-")]


def successor(lab, left, before):
    """The keeper's pod that has taken the place of ``before``, which may stay listed until its finalizer is removed."""
    wait_until(lambda: len(keepers(lab, left)) == 1 and keepers(lab, left) != [before])
    (found,) = keepers(lab, left)
    return found


def history(lab, name):
    return Board(lab.host().cluster).history(name)


def test_job_that_was_left_ends_well_and_its_result_is_fetched_later(lab):
    left = lab.leave()
    wait_until(lambda: history(lab, left.name).over)
    report = follow(lab, left)
    assert lab.fetch(report) == expected_answer()
    told = history(lab, left.name)
    assert (told.state, told.detached, told.about["outputs"]) == ("done", True, ["baskets"])
    course = [event["what"] for event in told.events]
    wanted = ["submitted", "driver-attested", "handed-over", "keys-released", "egress-started", "program-started"]
    assert set(wanted) <= set(course)
    assert course.index("handed-over") < course.index("keys-released") < course.index("program-started")


@pytest.mark.slow
def test_only_the_keepers_pod_has_a_token_and_it_holds_nothing_else(double):
    """Attack: whoever reads the namespace's objects looks for what the keeper could give away."""
    left = double.leave()
    wait_until(lambda: history(double, left.name).over)
    pods = {body["metadata"]["name"]: body for body in double.cluster.bodies if body["kind"] == "Pod"}
    tokens = [
        name
        for name, pod in pods.items()
        if any("projected" in one or "secret" in one for one in pod["spec"]["volumes"])
    ]
    assert tokens == []
    (job,) = [body for body in double.cluster.bodies if body["kind"] == "Job"]
    assert job["metadata"]["name"] == f"{left.name}-keeper"
    keeper = job["spec"]["template"]["spec"]
    assert keeper["automountServiceAccountToken"] is False
    assert "env" not in keeper["containers"][0]
    assert not any("persistentVolumeClaim" in volume for volume in keeper["volumes"])
    maps = json.dumps([body for body in double.cluster.bodies if body["kind"] == "ConfigMap"])
    for secret in ("ticket", KEEPER_TOKEN, "PRIVATE", "SELECT"):
        assert secret not in maps


def test_refusal_is_told_before_the_client_leaves_and_nothing_stays(lab):
    with pytest.raises(RefusedError):
        lab.leave(job=lab.world.write_job(purpose="something-else"))
    assert lab.names("pods") == []


def test_analyst_comes_back_to_a_running_job_and_hears_it_from_the_beginning(lab):
    left = lab.leave(job=lab.world.write_job(program=LONG_QUERY))
    seen = []
    job = Background(follow, lab, left, on_event=lambda name, _facts: seen.append(name))
    wait_until(lambda: "program-started" in seen)
    assert seen[0] == "broker-attested"
    Board(lab.host().cluster).cancel(left.name)
    with pytest.raises(StrongroomError):
        job.outcome(120)
    wait_until(lambda: lab.names("pods") == [])
    assert history(lab, left.name).state == "cancelled"


@pytest.mark.slow
def test_stranger_may_not_listen_to_somebody_elses_job(lab):
    """Attack: another party attests the driver and asks to be told what it tells its analyst."""
    left = lab.leave(job=lab.world.write_job(program=LONG_QUERY))
    with pytest.raises(RefusedError, match="only the job's analyst"):
        follow_left(
            lab.host(),
            left.name,
            attach=lambda address: lab.world.partner.attach(left, address, on_event=lambda _name, _facts: None),
            read=lambda _sealed: pytest.fail("it still runs"),
        )
    Board(lab.host().cluster).cancel(left.name)


@pytest.mark.slow
def test_why_it_failed_is_for_its_analyst_alone(lab):
    """Attack: the host reads the history and the sealed report for what the program's failure quotes."""
    job = lab.world.write_job(program="SELECT region, sqrt(-1 * count(*)) AS n FROM sales GROUP BY region")
    left = lab.leave(job=job)
    wait_until(lambda: history(lab, left.name).over)
    told = history(lab, left.name)
    assert told.state == "failed"
    with pytest.raises(StrongroomError) as failed:
        follow(lab, left)
    assert failed.value.message not in json.dumps([told.why, [dict(one) for one in told.events]])
    with pytest.raises(EnvelopeError):
        lab.world.partner.read_report(left, told.report)


@pytest.mark.slow
def test_report_of_another_driver_is_not_believed(double):
    """Attack: the host exchanges the report for one that its own workload sealed to the analyst."""
    from strongroom.attestation.workload_keys import WorkloadKeys
    from strongroom.workload.report import seal_report

    left = double.leave()
    wait_until(lambda: history(double, left.name).over)
    forged = seal_report(
        [{"type": "done", "outputs": []}],
        to=double.world.analyst.kem.public,
        keys=WorkloadKeys.generate(),
        job=left.digest,
    )
    double.cluster.store.patch("configmaps", NAMESPACE, f"{left.name}-history", {"data": {"report": forged}})
    with pytest.raises(EvidenceError, match="not by the driver"):
        follow(double, left)


@pytest.mark.slow
def test_keeper_that_is_killed_goes_on_where_it_was(double):
    double.cluster.node.delay = lambda pod: 3.0 if "-egress-" in pod["metadata"]["name"] else 0.0
    left = double.leave()
    (keeper,) = keepers(double, left)
    double.cluster.node.kill(keeper, NAMESPACE)
    wait_until(lambda: history(double, left.name).over)
    assert double.fetch(follow(double, left)) == expected_answer()
    assert double.cluster.node.restarts[keeper] == 1
    egress = [name for name in double.cluster.node.started if "-egress-" in name]
    assert len(egress) == 1


@pytest.mark.slow
def test_keeper_whose_node_dies_or_is_drained_has_a_successor_that_goes_on(lab):
    """Nobody is there to make the job's pods until another keeper is, and nothing that is there is made twice."""
    left = lab.leave(job=lab.world.write_job(program=LONG_QUERY))
    wait_until(lambda: "member-admitted" in [event["what"] for event in history(lab, left.name).events])
    (first,) = keepers(lab, left)
    lab.cluster.kill(first)
    second = successor(lab, left, first)
    lab.cluster.drain(second)
    successor(lab, left, second)
    lab.cluster.kill(f"{left.name}-egress-1")
    wait_until(lambda: [event["what"] for event in history(lab, left.name).events].count("egress-started") == 2)
    Board(lab.host().cluster).cancel(left.name)
    wait_until(lambda: lab.names("pods") == [])


@pytest.mark.slow
def test_egress_that_is_killed_after_the_client_left_is_replaced(double):
    killed = []

    def kill(pod):
        name = pod["metadata"]["name"]
        if "-egress-" in name and not killed:
            killed.append(name)
            return True
        return False

    double.cluster.node.stillborn = kill
    left = double.leave()
    wait_until(lambda: history(double, left.name).over)
    assert double.fetch(follow(double, left)) == expected_answer()
    what = [event["what"] for event in history(double, left.name).events]
    assert what.count("egress-started") == 2
    assert killed


@pytest.mark.slow
def test_member_whose_node_is_drained_is_replaced_and_nobody_is_blamed(lab):
    left = lab.leave(job=lab.world.write_job(program=LONG_QUERY))
    first, second = f"{left.name}-egress-1", f"{left.name}-egress-2"
    wait_until(lambda: "member-admitted" in [event["what"] for event in history(lab, left.name).events])
    lab.cluster.drain(first)
    wait_until(lambda: second in lab.names("pods"))
    told = history(lab, left.name)
    assert not told.over
    Board(lab.host().cluster).cancel(left.name)
    wait_until(lambda: lab.names("pods") == [])


@pytest.mark.slow
def test_driver_that_is_evicted_while_nobody_listens_is_told_later(double):
    left = double.leave(job=double.world.write_job(program=LONG_QUERY))
    double.cluster.node.evict(f"{left.name}-driver", NAMESPACE)
    wait_until(lambda: history(double, left.name).ended)
    assert "was evicted: The node was low on resource: memory" in history(double, left.name).why
    with pytest.raises(StrongroomError, match="left no report"):
        follow(double, left)


@pytest.mark.slow
def test_history_stays_when_everything_else_is_gone_and_old_ones_go(lab):
    first = lab.leave()
    wait_until(lambda: history(lab, first.name).over)
    Board(lab.host().cluster).cancel(first.name)
    wait_until(lambda: lab.names("pods") == [])
    wait_until(lambda: lab.names("configmaps") == [f"{first.name}-history"])
    assert history(lab, first.name).state == "done"
    second = lab.leave(history_jobs=1)
    assert [one.name for one in Board(lab.host().cluster).histories()] == [second.name]


@pytest.mark.slow
def test_verbs_find_their_way_back_from_another_machine(lab, tmp_path, monkeypatch, capsys):
    desk = Desk.open(lab, tmp_path, monkeypatch)
    words = ["submit", lab.world.write_job(), "--cluster", "k8s", "--platform", lab.world.platform.directory]
    said = desk.answer(capsys, *words, "--detach", *desk.party)
    name = said["name"]
    assert desk.answer(capsys, "job", "wait", name, "--timeout", 240)["state"] == "done"
    assert desk.answer(capsys, "job", "attach", name, *desk.party)["outputs"][0]["name"] == "baskets"
    assert desk.answer(capsys, "job", "list", "--all")["jobs"][0]["job"] == name
    shown = desk.answer(capsys, "job", "show", name)
    assert (shown["state"], shown["kind"], shown["outputs"]) == ("done", "sql", ["baskets"])
    assert desk.answer(capsys, "fetch", said["job"], *desk.party)["result"] == expected_answer()
    desk.forget_jobs()
    assert desk.answer(capsys, "fetch", name, *desk.party)["result"] == expected_answer()
