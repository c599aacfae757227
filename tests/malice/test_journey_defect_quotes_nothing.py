"""A defect that nobody foresaw raises data as its message, in the hope that a log or an answer repeats it."""

import pytest
from small_world import MARKER, abandoned, changed_package, lives, pids, plaintext_in, scratch_directories, small_world

from strongroom.errors import StrongroomError

DEFECTS = {
    "driver": {
        "workload/driver.py": (
            "        (output,) = room.outputs\n",
            "        raise ValueError(str(self._engine.read('sales').to_pylist()))\n",
        )
    },
    "egress": {
        "egress/gate.py": (
            "            facts = replace(facts, rows=",
            "            raise ValueError(str(content.to_pylist()))\n            facts = replace(facts, rows=",
        )
    },
}


@pytest.mark.parametrize("role", [pytest.param("driver", marks=pytest.mark.slow), "egress"])
def test_defect_ends_the_job_with_its_kind_and_place_and_no_data(tmp_path, role):
    before, seen = scratch_directories(), []
    package = changed_package(tmp_path / "defective", DEFECTS[role])
    with small_world(tmp_path, package=package) as world:
        with pytest.raises(StrongroomError, match="unexpected ValueError") as failed:
            world.run(on_event=lambda name, facts: seen.append((name, facts)))
        (place,) = DEFECTS[role]
        assert place in failed.value.message
        said = str(seen) + failed.value.message + failed.value.hint
        assert MARKER not in said
        assert "business" not in said  # stands in the result
        assert not any(b"business" in log.read_bytes() for log in world.directory.rglob("*.log"))
        assert plaintext_in(world.directory) == []
        assert not any(lives(pid) for pid in pids(seen, "driver") + pids(seen, "egress"))
        assert abandoned(before) == set()
