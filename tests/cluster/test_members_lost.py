"""A member that the driver lost is deleted by the launcher, whatever its pod's phase says, and replaced."""

import json
import time

from small_world import expected_answer


def egress_pods(launcher):
    return launcher.processes.get("egress", [])


def test_pod_of_a_member_that_fell_silent_is_deleted_and_another_made(lab):
    analyst, broker, seen = lab.world.analyst, lab.world.analyst_door(), []
    submitted = analyst.submit(lab.world.write_job(), broker=broker)
    launcher = analyst.launch(
        submitted,
        host=lab.host(),
        engine="embedded",
        directory=lab.world.job_directory(),
        on_event=lambda name, facts: seen.append((name, facts)),
    )
    try:
        until = time.monotonic() + 60
        while not egress_pods(launcher):
            assert time.monotonic() < until
            time.sleep(0.05)
        (silent,) = egress_pods(launcher)
        for name in ("somebody-elses-pod", silent):
            launcher._keeper._take_word(json.dumps({"event": "lost", "role": "egress", "name": name}))
        channel = analyst.attest_driver(submitted, launcher.start_address)
        analyst.hand_over(submitted, channel, broker=broker)
        report = analyst.follow(submitted, channel, on_event=lambda name, facts: seen.append((name, facts)))
        made = [facts["pod"] for name, facts in seen if name == "host-started" and facts["role"] == "egress"]
        assert made[0] == silent
        assert len(made) == 2
        assert lab.fetch(report) == expected_answer()
    finally:
        launcher.stop()
