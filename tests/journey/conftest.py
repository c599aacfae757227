"""Let journeys begin in a small world that is open: one for a whole file, and others for tests that change it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_world import small_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("journey")) as made:
        yield made
