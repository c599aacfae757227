"""Let tests place jobs on a cluster that is a double, in a small world whose broker and owners are real."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "journey")]

from api_server import FakeCluster  # noqa: E402
from lab import IMAGE, Lab  # noqa: E402
from small_world import frozen_package, small_world  # noqa: E402


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("cluster-world")) as world:
        yield world


@pytest.fixture
def lab(small, tmp_path):
    cluster = FakeCluster(
        tmp_path / "cluster", claims={"storage": small.directory}, images={IMAGE}, package=frozen_package()
    )
    yield Lab(world=small, cluster=cluster)
    cluster.close()
