"""Be one of two ranks of the benchmark ``deep``: all-reduce, train and boost in the clear and over the mesh, by turns.

``python -m benchmarks._deep_rank RANK PLACE QUICK``; rank 0 prints one JSON line.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.testing import simulated_tee, simulated_verifier
from strongroom.workload.boosting.stage import Stage
from strongroom.workload.confinement import confine
from strongroom.workload.mesh.mesh import Mesh, MeshDoor, Proof
from strongroom.workload.mesh.roster import Place, Roster
from strongroom.workload.torch.process_group import BACKEND, StrongroomGroup

JOB = hashlib.sha384(b"benchmark").digest()
SIZES = (1, 4, 16, 64)
ROWS = (20_000, 250_000)  # of each rank: few, where exchanging histograms is most of the work, and as many as are usual


def connect(rank: int, place: Path) -> Mesh:
    """Return the mesh with the other rank, over attested channels as in a job."""
    platform = SimulatedPlatform(place / "platform")
    keys = WorkloadKeys.generate()
    tee = simulated_tee("worker", platform=platform, job_digest=JOB)
    door = MeshDoor("127.0.0.1", proof=Proof(keys=keys, tee=tee, verifier=simulated_verifier(platform), job_digest=JOB))
    mine = Place(host=door.address[0], port=door.address[1], keys=keys.digest.hex())
    places: list[Any] = [None, None]
    dist.all_gather_object(places, mine)
    return door.open(Roster(round=1, rank=rank, places=tuple(places)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def train(group: Any, rank: int, steps: int) -> torch.Tensor:
    """Train a network of 670,000 weights on made-up digits, a batch of 256 for each rank; return its last weights."""
    model = DistributedDataParallel(network(), process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dealt = torch.Generator().manual_seed(rank)
    pixels, names = torch.rand(4096, 784, generator=dealt), torch.randint(0, 10, (4096,), generator=dealt)
    for step in range(steps):
        rows = slice(step % 16 * 256, step % 16 * 256 + 256)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels[rows]), names[rows]).backward()
        optimizer.step()
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


def boosting(rank: int, mesh: Mesh, place: Path, *, rows: int) -> dict[str, Callable[[], bytes]]:
    """Return XGBoost's training of 30 trees on made-up rows by its own sockets and over the mesh: its model's bytes."""
    import xgboost
    from xgboost.tracker import RabitTracker

    dealt = torch.Generator().manual_seed(rank)
    seen = torch.randn(rows, 30, generator=dealt).numpy()
    names = (seen[:, 0] * seen[:, 1] + seen[:, 2] > 0).astype("float32")

    def learn() -> bytes:
        settings = {"objective": "binary:logistic", "max_depth": 6, "nthread": 1}
        return bytes(xgboost.train(settings, xgboost.QuantileDMatrix(seen, names), 30).save_raw("ubj"))

    def plain() -> bytes:
        told: list[Any] = [None]
        if rank == 0:
            tracker = RabitTracker(n_workers=2, host_ip="127.0.0.1", sortby="task")
            tracker.start()
            told = [tracker.worker_args()]
        dist.broadcast_object_list(told)
        with xgboost.collective.CommunicatorContext(**told[0], dmlc_task_id=str(rank)):
            found = learn()
        dist.barrier()  # the tracker, which is rank 0's, must be there until the other rank has left it
        return found

    tee = simulated_tee("worker", platform=SimulatedPlatform(place / "platform"), job_digest=JOB)
    stage = Stage(mesh, tee=tee, confine=lambda: confine([place], keep_signals=True))
    return {"plain": plain, "mesh": lambda: stage.xgboost(learn)}


def main(rank: int, place: Path, quick: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place / 'store'}", rank=rank, world_size=2)
    mesh = connect(rank, place)

    def make(options: Any, _: object) -> StrongroomGroup:
        return StrongroomGroup(mesh, ranks=range(2), name=str(options.group_id), timeout=timedelta(minutes=5))

    dist.Backend.register_backend(BACKEND, make, extended_api=True, devices=["cpu"])
    groups = {"gloo": dist.new_group([0, 1]), "mesh": dist.new_group([0, 1], backend=BACKEND)}
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, act: Callable[[], Any]) -> Any:
        dist.barrier()
        begun, busy = time.perf_counter(), time.process_time()
        made = act()
        dist.barrier()
        seconds[name].append(time.perf_counter() - begun)
        seconds[f"{name} cpu"].append(time.process_time() - busy)
        return made

    for size in SIZES:
        tensors = {side: torch.randn(size << 18, generator=torch.Generator().manual_seed(rank)) for side in groups}
        for number in range(3 if quick else 9):
            for side in ("gloo", "mesh") if number % 2 else ("mesh", "gloo"):
                tensor = tensors[side].clone()
                timed(f"{size} {side}", lambda side=side, tensor=tensor: dist.all_reduce(tensor, group=groups[side]))
                tensors[f"found {side}"] = tensor
        assert torch.equal(tensors["found gloo"], tensors["found mesh"])
    found = {}
    for number in range(3 if quick else 7):
        for side in ("gloo", "mesh") if number % 2 else ("mesh", "gloo"):
            found[side] = timed(f"train {side}", lambda side=side: train(groups[side], rank, 20 if quick else 60))
    equal = torch.equal(found["gloo"], found["mesh"])
    for rows in ROWS:
        ways = boosting(rank, mesh, place, rows=rows)
        made = {}
        for number in range(3 if quick else 7):
            for side in ("plain", "mesh") if number % 2 else ("mesh", "plain"):
                made[side] = timed(f"boost {rows} {side}", ways[side])
        equal &= made["plain"] == made["mesh"]
    if rank == 0:
        print(json.dumps({"seconds": seconds, "equal": equal}), flush=True)
    dist.barrier()
    mesh.close()
    groups["mesh"].shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "quick")
