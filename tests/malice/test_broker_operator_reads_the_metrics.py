"""The operator, who is trusted by nobody, reads everything that the broker shows on its plain-HTTP listener."""

import http.client
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scene import Scene

from strongroom.errors import RefusedError


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def ask(port, path, method="GET"):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        line.request(method, path)
        answer = line.getresponse()
        return answer.status, answer.read().decode()
    finally:
        line.close()


def figures(port):
    status, text = ask(port, "/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[(sample.name.removeprefix("strongroom_broker_"), *sample.labels.values())] = sample.value
    return text, found


def test_metrics_count_what_happened_and_name_nobody(scene):
    client = scene.ready()
    job = scene.job()
    driver = scene.driver(client, job, client.submit_job(job.statement))
    for _ in range(3):
        driver.release(["flights", "weather"])
    with pytest.raises(RefusedError):
        client.submit_job(scene.job(purpose="curiosity").statement)
    text, found = figures(scene.metrics)
    assert found["answers_total", "/v1/release", "answered"] == 3
    assert found["answers_total", "/v1/jobs", "answered"] == 1
    assert found["answers_total", "/v1/jobs", "refused"] == 1
    assert found["entries_total", "grant"] == 3
    assert found["entries_total", "refusal"] == 1
    assert found["sessions",] == found["leases",] == found["jobs",] == found["serving",] == 1
    assert found["ledger_entries",] == client.checkpoint().size == found["committed_entries_total",]
    assert found["commit_seconds_bucket", "+Inf"] == found["commit_seconds_count",] > 0
    assert found["tcb_evaluation_number", "sgx"] > 0
    assert found["collateral_expiry_seconds", "sgx"] > 0
    assert found["process_resident_memory_bytes",] > 1e6
    names = ("airline", "weather", "analyst", "flights", "carrier", "delay", job.digest[7:23])
    assert not [name for name in names if name in text]
    assert not re.search(r"(?=[0-9]*[a-f])[0-9a-f]{16}", text)  # no digest, id or fingerprint


def test_listener_shows_three_pages_and_does_nothing_else(scene):
    assert scene.start()["event"] == "ready"
    assert ask(scene.metrics, "/healthz") == (200, "ok\n")
    assert ask(scene.metrics, "/readyz") == (200, "ok\n")
    for path in ("/", "/v1/checkpoint", "/v1/evidence", "/metrics/../v1/nonce", "/metrics?x=1"):
        assert ask(scene.metrics, path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE"):
        assert ask(scene.metrics, "/metrics", method)[0] == 501
