"""The double of the API server is held to what a real one answered (Kubernetes 1.36.2)."""

import gzip
import json
import os
from pathlib import Path

import pytest
from api_server import NAMESPACE

from strongroom.jobs.launch.kubernetes.manifests import plain_pod

VECTORS = Path(os.environ.get("STRONGROOM_VECTORS", "/nowhere")) / "kubernetes"
RECORDING = VECTORS / "spark-4.3-cluster-job-on-1.36.audit.jsonl.gz"
pytestmark = pytest.mark.vectors


@pytest.fixture(scope="module")
def recorded():
    if not RECORDING.is_file():
        pytest.skip("no recordings of a real API server: set STRONGROOM_VECTORS")
    with gzip.open(RECORDING, "rt") as lines:
        return [json.loads(line) for line in lines]


def answers(recorded, verb: str, resource: str, sub: str = "") -> list[dict]:
    return [
        one["responseObject"]
        for one in recorded
        if one["verb"] == verb
        and one["stage"] == "ResponseComplete"
        and one["objectRef"].get("resource") == resource
        and one["objectRef"].get("subresource", "") == sub
        and "responseObject" in one
    ]


def test_pod_that_was_made_looks_like_a_real_one(double, recorded):
    real = answers(recorded, "create", "pods")[0]
    host = double.host()
    manifest = plain_pod(host.settings, {"name": "a"}, ["python3"])
    made = host.cluster.create(manifest, what="make a pod")
    assert made["status"] == real["status"]
    assert set(made["metadata"]) | {"labels", "managedFields"} == set(real["metadata"]) | {"labels"}
    assert int(made["metadata"]["resourceVersion"]) > 0


def test_status_of_a_pod_goes_the_way_of_a_real_one(double, recorded):
    real = [one["status"] for one in answers(recorded, "patch", "pods", "status")]
    seen = []
    double.run()
    for _, plural, what, _, found in double.cluster.store.history:
        if plural == "pods" and what == "MODIFIED" and found["metadata"]["name"].endswith("-driver"):
            seen.append(found["status"])
    real_phases = list(dict.fromkeys(one["phase"] for one in real))
    assert list(dict.fromkeys(one["phase"] for one in seen))[: len(real_phases)] == real_phases
    for phase in real_phases:
        ours = next(one for one in seen if one["phase"] == phase)
        theirs = next(one for one in real if one["phase"] == phase)
        assert set(ours) - {"qosClass"} <= set(theirs)
        assert [one["type"] for one in ours["conditions"]] == [one["type"] for one in theirs["conditions"]]
        assert set(ours["containerStatuses"][0]) <= set(theirs["containerStatuses"][0])
        assert set(ours["containerStatuses"][0]["state"]) == set(theirs["containerStatuses"][0]["state"])


def test_list_says_its_version_as_a_real_one_does(double, recorded):
    real = next(one for one in answers(recorded, "list", "configmaps"))
    ours = double.cluster.store.list("configmaps", NAMESPACE)
    assert (ours["kind"], ours["apiVersion"], set(ours["metadata"])) == (
        real["kind"],
        real["apiVersion"],
        set(real["metadata"]),
    )


def test_event_about_a_pod_names_it_as_a_real_one_does(double, recorded):
    real = next(one for one in answers(recorded, "create", "events") if one["apiVersion"] == "v1")
    double.run()
    events = double.cluster.store.list("events", NAMESPACE)["items"]
    assert events
    assert set(events[0]["involvedObject"]) <= set(real["involvedObject"])
    assert {"reason", "message", "type", "lastTimestamp"} <= set(real) & set(events[0])
