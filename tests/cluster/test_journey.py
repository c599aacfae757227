"""The journey of a job whose processes are pods."""

import socket
import threading
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
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
    wait_until(lambda: len(lab.names("configmaps")) == 1)
    (history,) = lab.names("configmaps")  # owned by nobody, so that it is there later
    assert history.endswith("-history")


def test_client_inside_the_cluster_goes_straight_to_the_pod(double):
    double.cluster.rules.pop("pods/portforward")
    assert double.fetch(double.run(reach="pod-ip"), reach="pod-ip") == expected_answer()


class ForwardedPort:
    """A port whose connections end at another one of this machine."""

    def __init__(self, port):
        self.target, self.connections = port, 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source, sink):
        with suppress(OSError), closing(sink):  # either side may end first
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


@pytest.mark.slow
def test_pods_reach_the_broker_where_the_settings_say(double):
    """The analyst's own way to the broker may be a forwarded port, which no pod has."""
    with closing(ForwardedPort(urlsplit(double.world.broker_url).port)) as port:
        report = double.run(broker=f"https://127.0.0.1:{port.port}")
        assert port.connections > 0
    assert double.fetch(report) == expected_answer()
