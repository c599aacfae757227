"""What every test may rely on."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that start heavy servers on one worker process, one after the other."""
    for item in items:
        for name in ("spark", "openbao"):
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.xdist_group(name))
