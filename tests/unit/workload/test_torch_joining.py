"""Programs join the job's mesh by init_process_group(), and reach nothing else by it."""

import subprocess
import sys
from textwrap import dedent

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = pytest.mark.torch

PROGRAM = dedent("""
    import os
    import torch
    from strongroom.workload.collectives import ClearTrafficError, guard_collectives
    guard_collectives()
    import torch.distributed as dist
    from strongroom.workload.torch.joining import enter_mesh, leave_mesh
    from strongroom.workload.mesh.mesh import Mesh

    def refused(*arguments, **named):
        try:
            dist.init_process_group(*arguments, **named)
        except ClearTrafficError as error:
            return error.message
        raise AssertionError("it was not refused")

    # Outside a mesh: one process, whatever the program asks for.
    assert "4 processes" in refused(world_size=4, rank=0)
    assert "'gloo'" in refused("gloo", world_size=2, rank=0)
    os.environ["WORLD_SIZE"] = "2"
    assert "'nccl'" in refused(backend="nccl")
    del os.environ["WORLD_SIZE"]

    # In a mesh of two: no backend but the job's own, under no name.
    enter_mesh(Mesh(rank=1, size=2, outgoing={}, incoming={}))
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == ("1", "2", "0")
    for backend in ("gloo", "nccl", "mpi", "ucc", "cpu:gloo,cuda:nccl", "GLOO"):
        assert "in the clear" in refused(backend)
    dist.init_process_group(init_method="tcp://10.0.0.1:1234", rank=0, world_size=2)  # it is told where it is
    assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ("strongroom", 1, 2)
    leave_mesh()
    assert not dist.is_initialized() and "RANK" not in os.environ

    # Alone, also a program that names gloo learns: nothing leaves the process.
    enter_mesh(Mesh.alone())
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
    model(torch.ones(3, 4)).sum().backward()
    assert model.module.weight.grad.abs().sum() > 0
    names = [None]
    dist.all_gather_object(names, {"rank": dist.get_rank()})
    assert names == [{"rank": 0}] and dist.get_backend() == "strongroom"
    leave_mesh()
    print("all of it")
""")


def test_every_way_to_another_backend_is_refused():
    """In a process of its own, for PyTorch stays held once it is."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "all of it"), done.stderr[-2000:]
