"""A model answers from a pod: placed, attested and ended as a job's driver is, and reached as its settings say."""

import json
from contextlib import closing, contextmanager

import pytest
from api_server import NAMESPACE
from lab import Desk, wait_until
from serving_world import SIMPLE, ask, outputs, simple_world
from small_world import Background

from strongroom.cli.journey import run
from strongroom.errors import RefusedError, StrongroomError
from strongroom.jobs.launch.kubernetes.board import Board
from strongroom.serving.client import open_client
from strongroom.serving.publication import Publication


@contextmanager
def serving_world(folder, real_cluster):
    if real_cluster is None:
        with simple_world(folder) as world:
            yield world
        return
    elsewhere = {"elsewhere": real_cluster.measurements, "broker_host": real_cluster.address}
    with simple_world(real_cluster.new_folder(), lease=30, **elsewhere) as world:
        real_cluster.share(world)
        yield world


@pytest.fixture(scope="module")
def small(tmp_path_factory, real_cluster):
    with serving_world(tmp_path_factory.mktemp("serving-world"), real_cluster) as world:
        yield world


@pytest.fixture
def doomed(lab, small, tmp_path, real_cluster):
    """The lab with a world of its own, whose dataset may be revoked."""
    with serving_world(tmp_path, real_cluster) as world:
        if real_cluster is None:
            lab.cluster.node.claims["storage"] = world.directory
        lab.world = world
        yield lab
    lab.world = small
    if real_cluster is not None:
        real_cluster.share(small)


def served(lab, **more):
    return lab.world.serve(lab.world.serve_job("simple", program=SIMPLE), host=lab.host(), **more)


def board(lab):
    return Board(lab.host().cluster)


def test_model_in_a_pod_answers_its_callers_until_it_is_ended(lab):
    endpoint = served(lab)
    with lab.world.asking(endpoint) as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert outputs(ask(client, [[1.0, 0.0], [0.0, 1.0]]))["score"] == [0.123, 1.0]
    (pod,) = lab.names("pods")
    assert pod.endswith("-endpoint")
    endpoint.stop()
    assert endpoint.wait(0) is not None
    wait_until(lambda: lab.names("pods") == lab.names("networkpolicies") == [])
    (told,) = [one for one in board(lab).histories() if one.name == endpoint.name]
    assert told.state == "done"
    course = [one["what"] for one in told.events]
    assert course.index("endpoint-attested") < course.index("handed-over") < course.index("serving")
    accounts = [one.facts for one in lab.world.entries("answers")]
    assert sum(one["closed"]["count"] for one in accounts if "closed" in one) == 1
    assert "opened" not in accounts[-1]


def test_cluster_is_given_nothing_secret_and_opens_one_port(double):
    """Attack: whoever reads the namespace's objects looks for a key, a ticket or the program."""
    endpoint = served(double)
    endpoint.stop()
    bodies = double.cluster.bodies
    assert {body["kind"] for body in bodies} == {"Pod", "ConfigMap", "NetworkPolicy"}
    (pod,) = [body for body in bodies if body["kind"] == "Pod"]
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [one["name"] for one in container["env"]] == ["POD_IP"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "predict" not in json.dumps(bodies)
    (policy,) = [body for body in bodies if body["kind"] == "NetworkPolicy"]
    (rule,) = policy["spec"]["ingress"]
    assert [one["port"] for one in rule["ports"]] == [container["ports"][0]["containerPort"]]


def test_owner_who_revokes_ends_the_pod(doomed):
    home = doomed.world.owners["hospital"]
    endpoint = served(doomed)
    try:
        home.owner.revoke(home.dataset, reason="consent withdrawn", broker=home.broker)
        with pytest.raises(RefusedError) as caught:
            endpoint.wait(60)
        assert any("is revoked by its owner" in reason for reason in caught.value.reasons)
    finally:
        endpoint.stop()
    (told,) = [one for one in board(doomed).histories() if one.name == endpoint.name]
    assert (told.state, told.why) == ("failed", "RefusedError")


def test_pod_that_dies_is_told_as_what_it_was(double):
    """A pod that somebody deletes is asked to end, and ends in order; a crash asks nobody."""
    endpoint = served(double)
    try:
        (pod,) = double.names("pods")
        double.cluster.node.kill(pod, NAMESPACE)
        with pytest.raises(StrongroomError, match="endpoint"):
            endpoint.wait(60)
    finally:
        endpoint.stop()


@pytest.fixture
def desk(lab, tmp_path, monkeypatch):
    return Desk.open(lab, tmp_path, monkeypatch)


def test_endpoint_that_is_left_to_the_cluster_goes_on_and_is_cancelled(lab, desk, tmp_path, capsys):
    published = tmp_path / "endpoint.json"
    words = ["serve", lab.world.serve_job("simple", program=SIMPLE), "--cluster", "k8s", "--detach", *desk.party]
    words += ["--platform", lab.world.platform.directory, "--publish", published]
    said = desk.answer(capsys, *words)
    assert said["simulated"] is True
    publication = Publication.read(published)
    with closing(open_client(lab.world.attester(None, publication=publication))) as client:
        assert outputs(ask(client, [[1.0, 0.0]]))["score"] == [0.123]
    (listed,) = desk.answer(capsys, "job", "list")["jobs"]
    assert (listed["job"], listed["state"]) == (said["job"], "Running")
    status = desk.answer(capsys, "job", "status", listed["job"])
    assert [pod["role"] for pod in status["pods"]] == ["endpoint"]
    logged = [json.loads(line) for line in desk.answer(capsys, "job", "logs", listed["job"])["lines"]]
    assert logged[0]["event"] == "listening"
    assert desk.answer(capsys, "job", "show", listed["job"])["state"] == "serving"
    desk.answer(capsys, "job", "cancel", listed["job"])
    wait_until(lambda: lab.names("pods") == [])
    assert desk.answer(capsys, "job", "show", listed["job"])["state"] == "cancelled"


def test_analyst_who_left_an_endpoint_comes_back_and_hears_its_end(lab, desk, tmp_path, capsys):
    words = ["serve", lab.world.serve_job("simple", program=SIMPLE), "--cluster", "k8s", "--detach", *desk.party]
    words += ["--platform", lab.world.platform.directory, "--publish", tmp_path / "endpoint.json"]
    name = desk.answer(capsys, *words)["job"]
    attached = Background(lambda: run(["job", "attach", name, *desk.party, "--settings", str(desk.file)]))
    wait_until(lambda: "serving" in capsys.readouterr().err)
    board(lab).cancel(name)
    assert attached.outcome(60) == 0
