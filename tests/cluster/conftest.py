"""Let tests place jobs on a cluster in a small world whose broker and owners are real.

The cluster is a double, or, where STRONGROOM_TEST_KUBECONFIG names one, a real one (docs/how-to/develop.md). A test
that asks for ``lab`` runs on either; one that plays tricks which only the double knows asks for ``double``.
"""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "journey")]

from api_server import FakeCluster  # noqa: E402
from lab import IMAGE, Lab  # noqa: E402
from real_cluster import RealCluster  # noqa: E402
from small_world import frozen_package, small_world  # noqa: E402


@pytest.fixture(scope="session")
def real_cluster():
    cluster = RealCluster.open()
    yield cluster
    if cluster is not None:
        cluster.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory, real_cluster):
    if real_cluster is None:
        with small_world(tmp_path_factory.mktemp("cluster-world")) as world:
            yield world
        return
    with small_world(
        real_cluster.new_folder(),
        lease=30,
        elsewhere=real_cluster.measurements,
        broker_host=real_cluster.address,
    ) as world:
        real_cluster.share(world)
        yield world


@pytest.fixture
def lab(small, tmp_path, real_cluster):
    if real_cluster is not None:
        yield Lab(world=small, cluster=real_cluster)
        real_cluster.clear()
        return
    cluster = FakeCluster(
        tmp_path / "cluster", claims={"storage": small.directory}, images={IMAGE}, package=frozen_package()
    )
    yield Lab(world=small, cluster=cluster)
    cluster.close()


@pytest.fixture
def double(lab, real_cluster):
    """The lab with the double, for tests that look into it or make it behave as no test can make a real one."""
    if real_cluster is not None:
        pytest.skip("looks into the double, or plays what no test can make a real cluster do (docs/decisions/0065)")
    return lab
