"""The journey of a job whose processes are pods."""

from small_world import expected_answer


def test_job_on_a_cluster_gives_the_right_answer(lab):
    seen = []
    report = lab.run(on_event=lambda name, facts: seen.append((name, dict(facts))))
    assert lab.world.fetch(report) == expected_answer()
    assert report.simulated
