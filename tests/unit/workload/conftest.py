"""Let the tests of this room share the worlds that lie beside them, and leave no room to the test that comes next."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from strongroom.workload import inside


@pytest.fixture(autouse=True)
def no_room_stays_open():
    """A process runs one job, so nobody leaves a room but tests."""
    yield
    inside.leave()
