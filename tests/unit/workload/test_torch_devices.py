"""Two processes learn together over the mesh, on the CPU or on a GPU where there is one, what one process learns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = pytest.mark.torch

from ddp_rank import learn  # noqa: E402

from strongroom.testing import simulated_platform  # noqa: E402

SIZE = 2
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch knows is here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_two_ranks_learn_what_one_learns_alone(device):
    ranks = together(device)
    assert ranks[0]["digest"] == ranks[1]["digest"]
    assert {rank["device"] for rank in ranks} == {device}
    torch.testing.assert_close(torch.tensor(ranks[0]["weights"]), torch.tensor(learn(device)["weights"]))
    for number, rank in enumerate(ranks):
        assert rank["streamed"] == SIZE
        exchanged = rank["exchanged"]
        assert exchanged["sum"] == [3.0] * 3
        assert exchanged["gathered"] == [[1.0] * 3, [2.0] * 3]
        assert exchanged["told"] == [1.0] * 2
        assert exchanged["scattered"] == [4.0 * number, 4.0 * number + 2]
        assert exchanged["received"] == [1.0] * 3
        assert exchanged["large"] == SIZE


def together(device):
    """What each rank says, in a process of its own."""
    with simulated_platform() as platform:
        command = [sys.executable, str(Path(__file__).with_name("ddp_rank.py")), str(platform.directory), device]
        ranks = [
            subprocess.Popen([*command, str(rank), str(SIZE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for rank in range(SIZE)
        ]
        try:
            places = [json.loads(rank.stdout.readline()) for rank in ranks]
            for rank in ranks:
                rank.stdin.write(json.dumps(places) + "\n")
                rank.stdin.flush()
            return [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
