"""What can be asked of a real cluster without an image of ours there: set STRONGROOM_TEST_KUBECONFIG to a test cluster.

STRONGROOM_TEST_NAMESPACE names the namespace (by default ``strongroom-test``), which must exist.
"""

import os
import time

import pytest
from lab import settings_text

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.kubernetes import JobPods, KubernetesHost, KubernetesLauncher
from strongroom.jobs.launch.kubernetes.access import find_access
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.board import Board
from strongroom.jobs.launch.kubernetes.settings import parse_settings
from strongroom.jobs.spec import load_job

KUBECONFIG = os.environ.get("STRONGROOM_TEST_KUBECONFIG", "")
pytestmark = pytest.mark.skipif(not KUBECONFIG, reason="STRONGROOM_TEST_KUBECONFIG names no cluster")


def launcher(small, **changes) -> KubernetesLauncher:
    namespace = os.environ.get("STRONGROOM_TEST_NAMESPACE", "strongroom-test")
    settings = parse_settings(settings_text(small, namespace=namespace, start_seconds=60, **changes))
    cluster = Cluster(find_access(environ={"KUBECONFIG": KUBECONFIG}), namespace=namespace)
    host = KubernetesHost(cluster, settings=settings, seed=b"s" * 32)
    digest = f"sha384:{os.urandom(48).hex()}"
    pods = JobPods(spec=load_job(small.write_job()), digest=digest, engine="embedded", settings=host.settings)
    return KubernetesLauncher(cluster, pods=pods, seed=b"s" * 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runtime_class": "no-such-class"}, "no runtime class no-such-class"),
        ({"service_account": "no-such-account"}, "no service account no-such-account"),
    ],
)
def test_refusals_of_a_real_cluster_are_one_sentence(small, changes, words):
    placed = launcher(small, **changes)
    with pytest.raises(StrongroomError, match=words):
        placed.start()


def test_pod_that_cannot_run_is_told_and_nothing_is_left(small):
    placed = launcher(small, image="registry.invalid/none:none")
    with pytest.raises(StrongroomError):
        placed.start()
    board = Board(placed._cluster)
    until = time.monotonic() + 60
    while any(job.name == placed._pods.name for job in board.jobs()) and time.monotonic() < until:
        time.sleep(1)
    assert not any(job.name == placed._pods.name for job in board.jobs())
