"""An attacker reads every packet between workers: with plain gloo it has the gradients, with the mesh nothing."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from mesh_world import mesh_world
from packets import every_packet, found

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = pytest.mark.torch

# Ranks learn numbers that begin with these eight bytes, over and over; sent as they are, they are found in any packet.
KNOWN = torch.tensor([1.2345678, -8.7654321]).repeat(40_000)
NEEDLE = bytes(KNOWN.numpy().tobytes()[:64])

GLOO = """
import sys, torch, torch.distributed as dist
rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
known = torch.tensor([1.2345678, -8.7654321]).repeat(40_000)
dist.broadcast(known, 0)
both = known.clone()
dist.all_reduce(both)
assert torch.equal(both, 2 * known)
"""


def test_plain_gloo_shows_what_was_learned(tmp_path):
    """The other half of the test: the capture sees what is there to be seen."""
    with every_packet() as packets:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", GLOO, str(rank), str(tmp_path / "store")],
                cwd=tmp_path,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
            )
            for rank in range(2)
        ]
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    assert found(packets, NEEDLE) > 0


def test_the_mesh_shows_nothing_of_it():
    from strongroom.workload.torch.process_group import StrongroomGroup

    with mesh_world(2) as world, every_packet() as packets:
        meshes = world.connect()
        groups = [StrongroomGroup(mesh, ranks=range(2), name="wire", timeout=timedelta(seconds=30)) for mesh in meshes]
        shown = [KNOWN.clone(), torch.zeros_like(KNOWN)]
        for work in [group.broadcast([one]) for group, one in zip(groups, shown, strict=True)]:
            work.wait()
        both = [one.clone() for one in shown]
        for work in [group.allreduce([one]) for group, one in zip(groups, both, strict=True)]:
            work.wait()
        for mesh in meshes:
            mesh.close()
    assert torch.equal(shown[1], KNOWN)
    assert torch.equal(both[0], 2 * KNOWN)
    crossed = sum(len(packet) for packet in packets)
    assert crossed > 2 * KNOWN.nbytes  # it did cross this wire
    assert found(packets, NEEDLE[:8]) == 0
    assert found(packets, bytes((2 * KNOWN).numpy().tobytes()[:8])) == 0
