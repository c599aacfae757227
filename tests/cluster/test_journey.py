"""The journey of a job whose processes are pods."""

from lab import wait_until
from small_world import expected_answer


def test_job_on_a_cluster_gives_the_right_answer(lab):
    seen = []
    report = lab.run(on_event=lambda name, facts: seen.append((name, dict(facts))))
    assert lab.fetch(report) == expected_answer()
    assert report.simulated


def test_cluster_is_given_nothing_secret(double):
    """Attack: whoever reads the namespace's objects looks for a key, a ticket, a program or a Secret."""
    double.run()
    assert {body["kind"] for body in double.cluster.bodies} == {"Pod", "ConfigMap", "NetworkPolicy"}
    for pod in (body for body in double.cluster.bodies if body["kind"] == "Pod"):
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            assert [one["name"] for one in container.get("env", ())] in ([], ["POD_IP"])
            assert "envFrom" not in container
            assert "ticket" not in " ".join(container["command"])
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert not any("secret" in volume for volume in pod["spec"]["volumes"])


def test_pods_belong_to_the_driver_and_go_with_it(lab):
    lab.run()
    wait_until(lambda: len(lab.names("pods")) == 1)
    (driver,) = lab.names("pods")
    assert driver.endswith("-driver")  # kept for its log
    lab.cluster.kill(driver)
    wait_until(lambda: lab.names("pods") == lab.names("networkpolicies") == [])
    (history,) = lab.names("configmaps")  # owned by nobody, so that it is there later
    assert history.endswith("-history")


def test_client_inside_the_cluster_goes_straight_to_the_pod(double):
    double.cluster.rules.pop("pods/portforward")
    assert double.fetch(double.run(reach="pod-ip"), reach="pod-ip") == expected_answer()
