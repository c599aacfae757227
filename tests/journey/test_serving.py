"""A model of two owners answers callers from an attested endpoint, and every answer stands in the ledger."""

import threading

import numpy as np
import pytest
from serving_world import infer, measurements, outputs, plain_chances, serving_world
from small_world import wait_until

from strongroom.digests import parse_text, to_text
from strongroom.serving.accounts import answer_leaf, request_digest, verify_receipt


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with serving_world(tmp_path_factory.mktemp("serving")) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(world):
    running = world.serve()
    yield running
    running.stop()


def test_caller_gets_what_the_models_say_rounded_as_the_owners_permit(world, endpoint):
    rows, _ = measurements()
    with world.asking(endpoint) as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/tumours").json()["versions"] == ["1-1"]
        answer = outputs(infer(client, rows[:50]))
    assert answer["benign"] == np.round(plain_chances(rows[:50]), 4).tolist()
    assert answer["finding"] == np.where(plain_chances(rows[:50]) > 0.5, "benign", "malignant").tolist()


def test_every_answer_is_shown_to_stand_in_the_ledger(world, endpoint):
    rows, _ = measurements()
    with world.asking(endpoint) as client:
        answer = infer(client, rows[:3])
        place = answer.headers["strongroom-receipt"]
        found = []

        def closed():
            asked = client.get(f"/strongroom/v1/receipts/{place}")
            found.append(asked.json())
            return asked.status_code == 200

        wait_until(closed, seconds=20, why="the window was never closed")
    receipt = found[-1]
    request = answer.request
    leaf = answer_leaf(
        job=to_text(endpoint.publication.digest),
        caller=world.partner.key.party.fingerprint,
        request=request_digest(method="POST", path="/v2/models/tumours/infer", body=request.content),
        answer=answer.content,
        model="tumours@1-1",
    )
    entry = world.analyst_door().verified_entry(receipt["index"])
    assert str(entry.kind) == "answers"
    verify_receipt(receipt, leaf=leaf, facts=entry.facts)
    assert entry.facts["closed"]["callers"][str(world.partner.key.party)] >= 3
    assert parse_text(entry.facts["closed"]["root"])
    with world.asking(endpoint, by=world.analyst) as other:
        assert other.get(f"/strongroom/v1/receipts/{place}").status_code == 404


def test_window_stands_in_the_ledger_before_its_answers(world, endpoint):
    with world.asking(endpoint) as client:
        infer(client, measurements()[0][:1])
        opened = [one for one in world.entries("answers") if "opened" in one.facts]
    assert any(str(world.partner.key.party) in one.facts["opened"]["callers"] for one in opened)


def test_newer_version_takes_over_without_dropping_a_request(world, endpoint):
    rows, _ = measurements()
    found, over = [], threading.Event()

    def ask():
        with world.asking(endpoint) as client:
            while not over.is_set():
                answer = infer(client, rows[:2])
                found.append((answer.status_code, answer.json().get("model_version")))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        home = world.owners["hospital"]
        world.register_version(home, 2, rounds=3)
        wait_until(lambda: ("200", "2-1") in {(str(a), b) for a, b in found}, seconds=30, why="it was never taken up")
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert {status for status, _ in found} == {200}
    assert {version for _, version in found} == {"1-1", "2-1"}
    with world.asking(endpoint) as client:
        assert client.get("/v2/models/tumours/versions/1-1").status_code == 404
        assert outputs(infer(client, rows[:5]))["benign"] != np.round(plain_chances(rows[:5]), 4).tolist()
    granted = [one.facts["datasets"] for one in world.entries("grant")]
    assert any(
        {d["dataset"]: d["version"] for d in one} == {"biopsies-model": 2, "findings-model": 1} for one in granted
    )


def test_endpoint_keeps_to_the_open_inference_protocol(world, endpoint):
    """Every path of the protocol's version 2, as its clients use them (spec/8-serving.md §3)."""
    rows, _ = measurements()
    tensor = {"name": "measurements", "shape": [2, 30], "datatype": "FP64", "data": rows[:2].ravel().tolist()}
    with world.asking(endpoint) as client:
        server = client.get("/v2").json()
        assert server.keys() == {"name", "version", "extensions"}
        assert server["extensions"] == ["binary_tensor_data"]
        assert client.get("/v2/health/live").json() == {"live": True}
        model = client.get("/v2/models/tumours").json()
        assert model.keys() == {"name", "versions", "platform", "inputs", "outputs"}
        assert all(one.keys() == {"name", "datatype", "shape"} for one in (*model["inputs"], *model["outputs"]))
        (version,) = model["versions"]
        place = f"/v2/models/tumours/versions/{version}"
        assert client.get(place).json() == model
        assert client.get(f"{place}/ready").json() == {"name": "tumours", "ready": True}
        asked = {"id": "seven", "inputs": [tensor], "outputs": [{"name": "benign"}]}
        answer = client.post(f"{place}/infer", json=asked).json()
        assert answer.keys() == {"id", "model_name", "model_version", "outputs"}
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "tumours", version)
        (told,) = answer["outputs"]
        assert (told["name"], told["datatype"], told["shape"]) == ("benign", "FP64", [2])
        binary = client.post(f"{place}/infer", json={**asked, "parameters": {"binary_data_output": True}})
        head = int(binary.headers["inference-header-content-length"])
        assert np.frombuffer(binary.content[head:]).tolist() == told["data"]
        for method, path, status in (
            ("GET", "/v2/models/other", 404),
            ("GET", "/v2/models/tumours/versions/9", 404),
            ("POST", "/v2/health/ready", 405),
            ("GET", f"{place}/infer", 405),
            ("GET", "/v1/chat/completions", 405),
            ("POST", f"{place}/infer", 400),
        ):
            refused = client.request(method, path, content=b"not JSON" if method == "POST" else None)
            assert (path, refused.status_code) == (path, status)
            assert isinstance(refused.json()["error"], str)


def test_example_is_served_as_it_stands(world):
    running = world.serve(world.example_job("serving", callers={"clinic": "partner"}))
    with world.asking(running) as client:
        assert set(outputs(infer(client, measurements()[0][:1]))) == {"benign", "finding"}
    running.stop()
