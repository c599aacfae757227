"""The host starts an egress whose code differs by one byte, which might let anything out."""

import pytest
from small_world import changed_package, plaintext_in, small_world

from strongroom.errors import RefusedError


def test_changed_egress_is_not_admitted_and_no_result_exists(tmp_path):
    changed = changed_package(
        tmp_path / "changed", {"egress/gate.py": ("Take a job's outputs", "Take A job's outputs")}
    )
    with small_world(tmp_path) as world:
        world.platform.instead["egress"] = changed
        with pytest.raises(RefusedError) as refused:
            world.run()
        assert any("measurement" in reason for reason in refused.value.reasons)
        assert [entry for entry in world.entries("admission") if entry.reasons]
        assert world.entries("output") == []
        assert list((world.directory / "jobs").rglob("results/*")) == []
        assert plaintext_in(world.directory) == []
