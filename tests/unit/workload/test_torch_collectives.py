"""PyTorch's collectives over the mesh give what they must, exactly for two ranks, and fail clearly."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from mesh_world import mesh_world

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = pytest.mark.torch

import torch.distributed as dist  # noqa: E402

from strongroom.errors import UsageError  # noqa: E402
from strongroom.workload.torch.collectives import FOLDS  # noqa: E402
from strongroom.workload.torch.process_group import StrongroomGroup  # noqa: E402

LONG = timedelta(seconds=30)
_rounds = iter(range(1, 1000))


@pytest.fixture(scope="module")
def world():
    with mesh_world(4) as made:
        yield made


class Ranks:
    """The same group at each of its ranks, in one process."""

    def __init__(self, world, count: int, *, timeout: timedelta = LONG) -> None:
        number = next(_rounds)
        roster = world.places[:count]
        with ThreadPoolExecutor(count) as pool:
            opening = [
                pool.submit(world.doors[rank].open, world.roster(rank, number=number, places=roster))
                for rank in range(count)
            ]
            self.meshes = [one.result(60) for one in opening]
        self.count = count
        self.groups = [StrongroomGroup(mesh, ranks=range(count), name="test", timeout=timeout) for mesh in self.meshes]

    def all(self, act):
        """Start ``act(group, rank)`` at every rank, then wait for all."""
        for work in [act(group, rank) for rank, group in enumerate(self.groups)]:
            work.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for mesh in self.meshes:
            mesh.close()
        for group in self.groups:
            group.shutdown()


def options(op: str):
    made = dist.AllreduceOptions()
    made.reduceOp = getattr(dist.ReduceOp, op)
    return made


def rooted(kind, root: int):
    made = kind()
    made.rootRank = root
    return made


def data(count: int, size: int, dtype=torch.float32):
    torch.manual_seed(size)
    if dtype.is_floating_point:
        return [torch.randn(size).to(dtype) for _ in range(count)]
    return [torch.randint(0, 100, (size,)).to(dtype) for _ in range(count)]


def combined(given, op: str):
    stacked = torch.stack(given)
    found = {
        "SUM": lambda: stacked.sum(0),
        "AVG": lambda: stacked.sum(0) / len(given),
        "PRODUCT": lambda: stacked.prod(0),
        "MIN": lambda: stacked.amin(0),
        "MAX": lambda: stacked.amax(0),
        "BAND": lambda: _bits(given, torch.bitwise_and),
        "BOR": lambda: _bits(given, torch.bitwise_or),
        "BXOR": lambda: _bits(given, torch.bitwise_xor),
    }[op]()
    return found.to(given[0].dtype)


def _bits(given, fold):
    made = given[0]
    for one in given[1:]:
        made = fold(made, one)
    return made


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 5, 10_000, 1_500_001])
def test_sums_are_the_same_at_every_rank_and_exact_for_two(world, count, size):
    given = data(count, size)
    found = [one.clone() for one in given]
    with Ranks(world, count) as ranks:
        ranks.all(lambda group, rank: group.allreduce([found[rank]], options("SUM")))
    assert all(torch.equal(one, found[0]) for one in found)
    torch.testing.assert_close(found[0], combined(given, "SUM"), rtol=1e-5, atol=1e-5)
    if count == 2:
        assert torch.equal(found[0], given[0] + given[1])


@pytest.mark.parametrize("op", FOLDS)
def test_every_reduction(world, op):
    dtype = torch.int64 if op.startswith("B") else torch.float64
    given = data(3, 40_000, dtype)
    found = [one.clone() for one in given]
    with Ranks(world, 3) as ranks:
        ranks.all(lambda group, rank: group.allreduce([found[rank]], options(op)))
    torch.testing.assert_close(found[1], combined(given, op))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32, torch.uint8, torch.int64])
def test_every_kind_of_number(world, dtype):
    given = data(2, 30_000, dtype)
    found = [one.clone() for one in given]
    with Ranks(world, 2) as ranks:
        ranks.all(lambda group, rank: group.allreduce([found[rank]], options("SUM")))
    assert torch.equal(found[0], given[0] + given[1])
    assert torch.equal(found[1], found[0])


def test_tensors_that_are_not_contiguous_and_empty_ones(world):
    found = [torch.arange(20.0).reshape(4, 5).T for _ in range(2)]
    empty = [torch.empty(0) for _ in range(2)]
    with Ranks(world, 2) as ranks:
        ranks.all(lambda group, rank: group.allreduce([found[rank]], options("SUM")))
        ranks.all(lambda group, rank: group.allreduce([empty[rank]], options("SUM")))
    assert torch.equal(found[0], 2 * torch.arange(20.0).reshape(4, 5).T)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("root", [0, 1])
def test_broadcast_gather_and_scatter(world, count, root):
    size = 700_000
    shown = [torch.full((size,), float(rank)) for rank in range(count)]
    own = [torch.full((3,), float(rank)) for rank in range(count)]
    gathered = [torch.zeros(3) for _ in range(count)]
    parts = [torch.full((3,), 10.0 + rank) for rank in range(count)]
    dealt = [torch.zeros(3) for _ in range(count)]
    with Ranks(world, count) as ranks:
        ranks.all(lambda group, rank: group.broadcast([shown[rank]], rooted(dist.BroadcastOptions, root)))
        ranks.all(
            lambda group, rank: group.gather(
                [gathered] if rank == root else [], [own[rank]], rooted(dist.GatherOptions, root)
            )
        )
        ranks.all(
            lambda group, rank: group.scatter(
                [dealt[rank]], [parts] if rank == root else [], rooted(dist.ScatterOptions, root)
            )
        )
    assert all(torch.equal(one, torch.full((size,), float(root))) for one in shown)
    assert [int(one[0]) for one in gathered] == list(range(count))
    assert [int(one[0]) for one in dealt] == [10 + rank for rank in range(count)]


@pytest.mark.parametrize("count", [2, 3])
def test_gathering_scattering_and_exchanging_among_all(world, count):
    size = 300_000
    given = data(count, size)
    lists = [[torch.zeros(size) for _ in range(count)] for _ in range(count)]
    flat = [torch.zeros(count * size) for _ in range(count)]
    kept = [torch.zeros(size // count) for _ in range(count)]
    out = [torch.zeros(count) for _ in range(count)]
    with Ranks(world, count) as ranks:
        ranks.all(lambda group, rank: group.allgather([lists[rank]], [given[rank]]))
        ranks.all(lambda group, rank: group.all_gather_single(flat[rank], given[rank]))
        ranks.all(lambda group, rank: group.reduce_scatter_single(kept[rank], given[rank], options("SUM")))
        ranks.all(
            lambda group, rank: group.all_to_all_single(out[rank], torch.arange(count).float() + 10 * rank, [], [])
        )
        ranks.all(lambda group, _: group.barrier())
    for rank in range(count):
        assert torch.equal(torch.stack(lists[rank]), torch.stack(given))
        assert torch.equal(flat[rank], torch.cat(given))
        torch.testing.assert_close(kept[rank], torch.stack(given).sum(0).chunk(count)[rank], rtol=1e-5, atol=1e-5)
        assert out[rank].tolist() == [rank + 10 * other for other in range(count)]


def test_sending_and_receiving_beside_a_collective_in_any_order(world):
    got = [torch.zeros(100_000) for _ in range(2)]
    both = [torch.ones(2) for _ in range(2)]
    with Ranks(world, 2) as ranks:
        first, second = ranks.groups
        works = [first.recv([got[0]], 1, 5), second.recv([got[1]], 0, 6)]  # each waits, before anybody has sent
        works += [group.allreduce([one], options("SUM")) for group, one in zip(ranks.groups, both, strict=True)]
        works += [first.send([torch.full((100_000,), 1.0)], 1, 6), second.send([torch.full((100_000,), 2.0)], 0, 5)]
        for work in works:
            work.wait()
    assert (got[0][0].item(), got[1][0].item(), both[0][0].item()) == (2, 1, 2)


def test_ranks_that_disagree_on_a_size_are_told(world):
    with Ranks(world, 2) as ranks:
        works = [
            group.allreduce([torch.ones(size)], options("SUM"))
            for group, size in zip(ranks.groups, (10, 20), strict=True)
        ]
        with pytest.raises(UsageError, match="bytes where"):
            works[0].wait()


def test_a_rank_that_dies_in_the_middle_ends_the_others_collective(world):
    with Ranks(world, 2) as ranks:
        work = ranks.groups[0].allreduce([torch.ones(4_000_000)], options("SUM"))
        ranks.meshes[1].close()
        with pytest.raises(Exception, match="worker 1 is gone"):
            work.wait()
        assert ranks.meshes[0].broken


def test_a_rank_that_never_comes_is_waited_for_until_the_timeout(world):
    with Ranks(world, 2, timeout=timedelta(seconds=0.3)) as ranks:
        work = ranks.groups[0].allreduce([torch.ones(5)], options("SUM"))
        with pytest.raises(Exception, match="worker 1"):
            work.wait()


def test_unknown_reductions_are_refused_by_name(world):
    with Ranks(world, 2) as ranks:
        work = ranks.groups[0].allreduce([torch.ones(5)], type("Options", (), {"reduceOp": "RedOpType.PREMUL_SUM"})())
        with pytest.raises(UsageError, match="PREMUL_SUM is not known"):
            work.wait()
