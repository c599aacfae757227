"""One rank of a data-parallel training over a mesh of simulated TEEs: python ddp_rank.py PLATFORM DEVICE RANK SIZE.

Says where it is, is told where the others are, learns, and says what it learned.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

from mesh_world import prove

from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.workload.collectives import guard_collectives
from strongroom.workload.mesh.mesh import MeshDoor
from strongroom.workload.mesh.roster import Place, Roster

if __name__ == "__main__":  # whoever imports this only wants to learn alone
    guard_collectives()

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from strongroom.workload.torch.joining import enter_mesh, leave_mesh

torch.set_num_threads(1)
ROWS, STEPS = 64, 20


def learn(device: str, *, rank: int = 0, size: int = 1) -> dict:
    """Train a small network on a part of the rows; alone, on all of them."""
    torch.manual_seed(1)
    rows, labels = torch.randn(ROWS, 20), torch.randint(0, 3, (ROWS,))
    layers = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3)).to(device)
    # Small buckets: several collectives are under way while gradients are still computed.
    model = DistributedDataParallel(layers, bucket_cap_mb=0.002) if size > 1 else layers
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mine = slice(rank, None, size)
    part, wanted = rows[mine].to(device), labels[mine].to(device)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(part), wanted)
        loss.backward()
        optimizer.step()
    weights = torch.cat([one.detach().cpu().flatten() for one in layers.parameters()])
    return {
        "device": str(next(layers.parameters()).device.type),
        "digest": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
        "weights": weights.tolist(),
    }


def exchange(device: str, *, rank: int, size: int) -> dict:
    """Every collective once, on the device, and how fast a large sum is."""
    mine = torch.full((3,), float(rank + 1), device=device)
    total = mine.clone()
    dist.all_reduce(total)
    parts = [torch.empty(3, device=device) for _ in range(size)]
    dist.all_gather(parts, mine)
    told = torch.full((2,), float(rank), device=device)
    dist.broadcast(told, src=1)
    into = torch.empty(2, device=device)
    dist.reduce_scatter_tensor(into, torch.arange(2.0 * size, device=device))
    if rank == 0:
        dist.send(mine, dst=1)
    elif rank == 1:
        dist.recv(mine, src=0)
    dist.barrier()
    large = torch.ones(16 << 20, device=device)  # 64 MiB
    started = time.perf_counter()
    dist.all_reduce(large)
    checked = float(large[-1].item())
    return {
        "sum": total.tolist(),
        "gathered": [one.tolist() for one in parts],
        "told": told.tolist(),
        "scattered": into.tolist(),
        "received": mine.tolist(),
        "large": checked,
        "seconds": time.perf_counter() - started,
    }


def sum_in_a_stream(device: str) -> float:
    """What is summed on a GPU in a stream of the program's own, where it is still being computed meanwhile."""
    if device == "cpu":
        return float(dist.get_world_size())
    with torch.cuda.stream(torch.cuda.Stream()):
        late = torch.zeros(1000, device=device)
        torch.cuda._sleep(500_000_000)  # cycles: a quarter of a second
        late += 1
        dist.all_reduce(late)
        return float((late * 1).min().item())


def say(told: dict) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main(platform: str, device: str, rank: int, size: int) -> None:
    proof = prove(SimulatedPlatform.found_in(Path(platform), tee="sgx"))
    door = MeshDoor("127.0.0.1", proof=proof)
    host, port = door.address
    say({"host": host, "port": port, "keys": proof.keys.digest.hex()})
    places = tuple(Place(**one) for one in json.loads(sys.stdin.readline()))
    mesh = door.open(Roster(round=1, rank=rank, places=places))
    enter_mesh(mesh)
    dist.init_process_group()
    streamed = sum_in_a_stream(device)
    say(
        {
            "streamed": streamed,
            "exchanged": exchange(device, rank=rank, size=size),
            **learn(device, rank=rank, size=size),
        }
    )
    leave_mesh()
    mesh.close()
    door.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
