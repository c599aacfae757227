"""The host starts a driver whose code differs by one byte, to get the job, its ticket and the keys."""

import pytest
from small_world import changed_package, lives, pids, small_world

from strongroom.errors import EvidenceError


def test_client_hands_nothing_to_a_changed_driver(tmp_path):
    changed = changed_package(tmp_path / "changed", {"workload/driver.py": ("Conduct one job", "Conduct One job")})
    with small_world(tmp_path) as world:
        world.platform.instead["driver"] = changed
        seen = []
        with pytest.raises(EvidenceError, match="the driver measures as"):
            world.run(on_event=lambda name, facts: seen.append((name, facts)))
        assert "driver-attested" not in [name for name, _ in seen]
        assert world.entries("grant") == []
        assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))
