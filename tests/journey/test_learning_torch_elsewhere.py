"""Two lent machines train together, a worker on each, and learn the weights that plain processes learn."""

import pytest
from learning_world import DIGIT_OWNERS, EXAMPLES, digits, learning_world, run_example
from lent_machines import join, joined, pool
from plain_torch import plain_ranks

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_workers_on_lent_machines_learn_what_plain_processes_learn(tmp_path):
    with (
        learning_world(tmp_path, tables=digits(), owners=DIGIT_OWNERS) as world,
        joined(join(world, "a", most=2), join(world, "b", most=2)) as agents,
    ):
        report = run_example(world, "torch-ddp", engine="torch", host=pool(world, *agents))
        files = world.fetch_files(report, "model")
        assert all("job came" in "".join(agent.said) for agent in agents)
    plain = plain_ranks(EXAMPLES / "torch-ddp" / "program.py", digits(), size=2)
    assert bytes(files.open("model.safetensors").readall()) == plain["model"]["model.safetensors"]
