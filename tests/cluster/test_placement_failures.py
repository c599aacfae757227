"""Whatever the cluster does to a job, its analyst hears one sentence and what to do, and nothing is left behind."""

import threading
import time

import pytest
from api_server import NAMESPACE
from cluster_store import RefusedError
from lab import wait_until
from small_world import LONG_QUERY, expected_answer

from strongroom.errors import StrongroomError, TransportError, UsageError
from strongroom.jobs.launch.placement import PlacementError


def refusal(lab, **changes) -> StrongroomError:
    """Return why a job was not placed; nothing of it may be left."""
    with pytest.raises(StrongroomError) as failed:
        lab.run(**changes)
    wait_until(lambda: lab.names("pods") == [])
    wait_until(lambda: not any(name.endswith("-simulated") for name in lab.names("configmaps")))
    assert failed.value.hint
    return failed.value


def forbid(lab, message, *, only: str = "pods", role: str = "") -> None:
    def rule(plural, manifest):
        labels = manifest.get("metadata", {}).get("labels", {})
        if plural == only and (not role or labels.get("strongroom.dev/role") == role):
            raise RefusedError(403, "Forbidden", message)

    lab.cluster.store.admission.append(rule)


def test_missing_runtime_class_is_named_with_its_remedy(lab):
    error = refusal(lab, runtime_class="kata-qemu-tdx")
    assert "no runtime class kata-qemu-tdx" in error.message
    assert "install Kata" in error.hint


def test_quota_that_is_used_up_is_named(double):
    forbid(
        double,
        'pods "x" is forbidden: exceeded quota: compute, requested: requests.memory=2Gi, '
        "used: requests.memory=7Gi, limited: requests.memory=8Gi",
    )
    error = refusal(double)
    assert "quota compute is used up (requests.memory=7Gi of requests.memory=8Gi" in error.message


def test_missing_right_is_named_with_who_can_give_it(double):
    double.cluster.rules["pods"].discard("create")
    error = refusal(double)
    assert "me may not create pods in namespace jobs" in error.message
    assert "administrator" in error.hint


def test_missing_right_to_watch_ends_the_start_at_once(double):
    double.cluster.rules["pods"].discard("watch")
    started = time.monotonic()
    assert "may not watch pods" in refusal(double).message
    assert time.monotonic() - started < 15


def test_stranger_to_the_cluster_is_told_to_log_in(double):
    text = double.cluster.kubeconfig.read_text()
    double.cluster.kubeconfig.write_text(text.replace("a-token-of-the-submitter", "another"))
    error = refusal(double)
    assert "does not know who you are" in error.message


def test_namespace_that_is_not_there_is_named(double):
    double.cluster.namespaces.clear()
    assert "no namespace jobs" in refusal(double).message


def test_pod_security_that_forbids_the_pod_is_named(double):
    forbid(double, 'pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes')
    assert "pod security restricted:latest" in refusal(double).message


def test_image_that_no_node_has_is_named(lab):
    error = refusal(lab, image="strongroom:elsewhere")
    assert "cannot get the image strongroom:elsewhere" in error.message
    assert "import" in error.hint


def test_cluster_without_enclave_memory_is_no_hang(double):
    message = "0/3 nodes are available: 3 Insufficient sgx.intel.com/epc. preemption: 0/3 nodes are available."
    double.cluster.node.unschedulable = lambda _pod: message
    seen = []
    error = refusal(double, start_seconds=2, on_event=lambda name, facts: seen.append((name, dict(facts))))
    assert "enough SGX enclave memory" in error.message
    assert "device plugin" in error.hint
    assert any(name == "host-waits" and "SGX" in facts["why"] for name, facts in seen)  # said while it waited


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"service_account": "no-such-account"}, "no service account no-such-account"),
        ({"image": "registry.invalid/none:none"}, "cannot get the image registry.invalid/none:none"),
        ({"namespace": "no-such-namespace"}, "no-such-namespace"),
    ],
)
def test_what_the_settings_name_wrongly_is_named(lab, changes, words):
    assert words in str(refusal(lab, **changes))


def test_claim_that_does_not_exist_ends_the_start_at_once(double):
    double.cluster.node.unschedulable = lambda _pod: 'persistentvolumeclaim "storage" not found'
    started = time.monotonic()
    assert "volume claim storage" in refusal(double).message
    assert time.monotonic() - started < 15


def test_node_without_the_runtime_is_named(double):
    said = 'Failed to create pod sandbox: rpc error: code = Unknown desc = no runtime for "kata-qemu-tdx" is configured'
    double.cluster.node.sandbox = lambda _pod: said
    assert "has no runtime kata-qemu-tdx" in refusal(double).message


def test_input_outside_every_volume_is_refused_before_anything_is_made(double):
    host = double.host(storage="/elsewhere")
    with pytest.raises(UsageError, match="no volume holds"):
        double.world.analyst.run(
            double.world.write_job(),
            broker=double.world.analyst_door(),
            host=host,
            engine="embedded",
            directory=double.world.job_directory(),
        )
    assert not any(method == "POST" for method, _ in double.cluster.requests)


def test_egress_that_is_killed_is_replaced(double):
    killed = []

    def kill(name, facts):
        if name == "host-started" and facts["role"] == "egress" and not killed:
            killed.append(facts["pod"])
            threading.Thread(target=kill_when_running, args=(double, facts["pod"])).start()

    report = double.run(on_event=kill)
    assert double.fetch(report) == expected_answer()
    egress = [name for name in double.cluster.node.started if "-egress-" in name]
    assert killed
    assert len(egress) >= 2


def test_egress_that_comes_late_is_waited_for(double):
    double.cluster.node.delay = lambda pod: 2.0 if "-egress-" in pod["metadata"]["name"] else 0.0
    assert double.fetch(double.run()) == expected_answer()


def test_evicted_driver_is_told_as_evicted(double):
    def evict(name, _facts):
        if name == "program-started":
            (driver,) = [one for one in double.cluster.names("pods") if one.endswith("-driver")]
            double.cluster.node.evict(driver, NAMESPACE)

    with pytest.raises(PlacementError, match=r"was evicted: The node was low on resource: memory"):
        double.run(job=double.world.write_job(program=LONG_QUERY), on_event=evict)


def test_driver_out_of_memory_is_told_as_such(double):
    def starve(name, _facts):
        if name == "program-started":
            (driver,) = [one for one in double.cluster.names("pods") if one.endswith("-driver")]
            double.cluster.node.kill(driver, NAMESPACE, reason="OOMKilled")

    with pytest.raises(PlacementError, match="used more memory than its limit"):
        double.run(job=double.world.write_job(program=LONG_QUERY), on_event=starve)


def test_job_whose_driver_somebody_deletes_ends_with_a_word(double):
    def delete(name, _facts):
        if name == "program-started":
            (driver,) = [one for one in double.cluster.names("pods") if one.endswith("-driver")]
            double.cluster.store.delete("pods", NAMESPACE, driver)

    with pytest.raises(StrongroomError) as failed:
        double.run(job=double.world.write_job(program=LONG_QUERY), on_event=delete)
    assert isinstance(failed.value, (PlacementError, TransportError))
    wait_until(lambda: double.names("pods") == double.names("networkpolicies") == [])  # all went with their owner


def test_watch_that_is_too_old_lists_anew(double):
    def compact(name, _facts):
        if name in {"driver-attested", "program-started"}:
            double.cluster.store.forget_history()

    assert double.fetch(double.run(on_event=compact)) == expected_answer()


def kill_when_running(lab, name) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = lab.cluster.store.objects.get(("pods", NAMESPACE, name))
        if found and found["status"]["phase"] == "Running":
            lab.cluster.node.kill(name, NAMESPACE)
            return
        time.sleep(0.02)
