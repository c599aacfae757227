"""Spark on a cluster: workers are pods that prove themselves before an executor starts."""

import json

import pytest
from small_world import expected_answer

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def test_workers_are_pods_that_join_after_they_were_admitted(lab):
    seen, workers = [], []

    def look(name, facts):
        seen.append((name, dict(facts)))
        if name == "host-started" and facts["role"] == "worker":
            workers.append(lab.host().cluster.get("pods", facts["pod"]))

    report = lab.run(engine="spark", on_event=look)
    assert lab.fetch(report) == expected_answer()
    assert len(workers) == 1
    assert "secret" not in json.dumps(workers[0]["spec"]["containers"])
    names = [name for name, _ in seen]
    admitted = next(
        i for i, (name, facts) in enumerate(seen) if name == "member-admitted" and facts["role"] == "worker"
    )
    assert admitted < names.index("spark-started")
