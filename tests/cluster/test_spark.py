"""Spark on a cluster: workers are pods that prove themselves before an executor starts."""

import pytest
from small_world import expected_answer

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def test_workers_are_pods_that_join_after_they_were_admitted(lab):
    seen = []
    report = lab.run(engine="spark", on_event=lambda name, facts: seen.append((name, dict(facts))))
    assert lab.fetch(report) == expected_answer()
    workers = [command for name, command in lab.cluster.node.started.items() if "-worker-" in name]
    assert len(workers) == 1
    assert not any("secret" in word for word in workers[0])
    names = [name for name, _ in seen]
    admitted = next(
        i for i, (name, facts) in enumerate(seen) if name == "member-admitted" and facts["role"] == "worker"
    )
    assert admitted < names.index("spark-started")
