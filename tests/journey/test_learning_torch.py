"""PyTorch learns on two owners' encrypted rows, on two attested workers, what it learns in plain processes."""

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pytest
from learning_world import DIGIT_OWNERS, EXAMPLES, digits, learning_world, run_example
from plain_torch import plain_ranks
from small_world import PURPOSE

from strongroom.attestation.roles import Role
from strongroom.digests import bytes_digest
from strongroom.errors import StrongroomError
from strongroom.policy.template import policy_template

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with learning_world(tmp_path_factory.mktemp("torch"), tables=digits(), owners=DIGIT_OWNERS) as made:
        yield made


@pytest.fixture(scope="module")
def plain():
    return plain_ranks(EXAMPLES / "torch-ddp" / "program.py", digits(), size=2)


@pytest.mark.slow
def test_two_workers_learn_what_two_plain_processes_learn_even_if_one_is_killed(world, plain):
    """The same bits, although a worker is killed after the second of four epochs and another takes its place."""
    events, killed = [], []

    def note(name, facts):
        events.append((name, facts))
        if name == "checkpoint-kept" and facts["step"] == 2 and not killed:
            killed.extend(one["pid"] for kind, one in events if kind == "host-started" and one["role"] == "worker")
            os.kill(killed[0], signal.SIGKILL)

    report = run_example(world, "torch-ddp", engine="torch", on_event=note)
    names = [name for name, _ in events]
    assert names.count("round-started") == 2
    assert [facts["resumes"] for name, facts in events if name == "round-broken"] == [True]
    steps = [facts["step"] for name, facts in events if name == "checkpoint-kept"]
    assert steps == sorted(set(steps))  # nothing was learned twice: the second round began where the first had been
    assert sum(name == "member-admitted" and facts["role"] == "worker" for name, facts in events) == 3
    files = world.fetch_files(report, "model")
    weights = bytes(files.open("model.safetensors").readall())
    assert weights == plain["model"]["model.safetensors"]
    assert world.fetch(report, "quality") == plain["quality"]
    assert plain["quality"][0]["accuracy"] > 0.85
    card = json.loads(files.open("model-card.json").readall())
    assert card["lineage"]["kind"] == "torch"
    assert set(card["lineage"]["data"]) == {"letters", "cheques"}
    assert set(card["made_with"]) >= {"torch", "pyarrow"}


@pytest.mark.slow
def test_what_a_program_may_not_do_is_refused_at_every_rank(world, tmp_path):
    """Gloo, TCP, disks, pickles: one job tries them all, and tells what became of it."""
    program = dedent(f"""
        import pathlib, socket
        import torch, torch.distributed as dist
        from strongroom.workload import room

        refused = []
        def attempt(what, act):
            try:
                act()
            except Exception as error:
                refused.append(f"{{what}}: {{type(error).__name__}}")

        attempt("gloo", lambda: dist.init_process_group("gloo"))
        attempt("nccl", lambda: dist.init_process_group(backend="nccl"))
        attempt("store", lambda: dist.TCPStore("127.0.0.1", 0, 1, True))
        attempt("tcp", lambda: socket.create_connection(("127.0.0.1", 9)))
        attempt("disk", lambda: torch.save(torch.ones(2), {str(tmp_path / "leak.pt")!r}))
        attempt("pickle", lambda: room.checkpoint.save({{"x": object()}}, step=1))
        dist.init_process_group(backend="strongroom")
        attempt("group", lambda: dist.new_group([0, 1], backend="gloo"))
        pair = dist.new_group([0, 1])
        both = torch.ones(3)
        dist.all_reduce(both, group=pair)
        everything = [None, None]
        dist.all_gather_object(everything, refused)
        if room.rank == 0:
            import json
            path = room.scratch() / "weights.pt"
            torch.save(torch.ones(2), path)
            try:
                room.save(path, "model")
            except Exception as error:
                everything.append([str(error)[:30]])
            everything.append(both.tolist())
            room.save({{"said.json": json.dumps(everything)}}, "model")
    """)
    report = world.learn(program, kind="torch", engine="torch", workers=2, outputs={"model": "files"})
    said = json.loads(world.fetch_files(report, "model").open("said.json").readall())
    refusals = [
        "gloo: ClearTrafficError",
        "nccl: ClearTrafficError",
        "store: DistNetworkError",
        "tcp: PermissionError",
        "disk: RuntimeError",
        "pickle: UsageError",
        "group: ClearTrafficError",
    ]
    assert said[1] == refusals
    assert said[0] == refusals
    assert said[-1] == [2.0, 2.0, 2.0]
    assert said[2] == ["output 'model' may not be save"]
    assert not (tmp_path / "leak.pt").exists()


@pytest.mark.slow
def test_the_failure_of_one_rank_is_told_as_its_own_and_quotes_nothing(world):
    program = dedent("""
        import torch, torch.distributed as dist
        from strongroom.workload import room

        dist.init_process_group()
        if room.rank == 1:
            raise ValueError("Zebrafinch")
        dist.all_reduce(torch.ones(5))
    """)
    with pytest.raises(StrongroomError, match="line 7 of the program raised ValueError") as caught:
        world.learn(program, kind="torch", engine="torch", workers=2, outputs={"model": "files"})
    assert "Zebrafinch" not in str(caught.value)


@pytest.mark.slow
def test_an_output_that_two_ranks_write_is_refused(world):
    program = dedent("""
        import torch
        from strongroom.workload import room

        room.save({"w.json": "1"}, "model")
    """)
    with pytest.raises(StrongroomError, match=r"written by ranks \[0, 1\]"):
        world.learn(program, kind="torch", engine="torch", workers=2, outputs={"model": "files"})


KEEP = dedent("""
    import torch
    from torch.utils.data import DataLoader
    from strongroom.workload import room

    torch.manual_seed(0)
    digits = room.dataset("letters")
    model = torch.nn.Linear(784, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = 0
    for batch in DataLoader(digits, batch_size=100, num_workers=1):  # a process that is forked, and confined like this
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch["pixels"].float() / 255), batch["digit"]).backward()
        optimizer.step()
        seen += len(batch["digit"])
    room.save(model, "digit-reader", card={"seen": seen, "sum": float(model.weight.sum())})
""")
USE = dedent("""
    import json
    import pyarrow as pa
    import torch
    from strongroom.workload import room

    said = json.loads(room.open("digit-reader")["model-card.json"].read())["said"]
    model = torch.nn.Linear(784, 10)
    model.load_state_dict(room.load("digit-reader"))
    room.write(pa.table({"same": [float(model.weight.sum()) == said["sum"]], "seen": [said["seen"]]}), "used")
""")


@pytest.mark.slow
def test_a_model_that_stays_inside_is_loaded_by_a_later_job(world):
    """Both jobs are of kind python: one process, with the same data sets and the same way to save and load."""
    kept = world.learn(KEEP, keeper="post", takers=(), outputs={"digit-reader": "kept-files"}, recipients=("post",))
    post, (output,) = world.owners["post"], kept.outputs
    policy = policy_template(
        dataset="digit-reader",
        owner=post.owner.key.party,
        analysts=[world.analyst.key.party],
        purposes=[PURPOSE],
        expires=datetime(2099, 1, 1, tzinfo=UTC),
        version=1,
        approved=[bytes_digest(USE.encode())],
        measurements={str(role): [world.measurements[role]] for role in (Role.DRIVER, Role.WORKER, Role.EGRESS)},
        recipients=[world.analyst.key.party],
        allow_simulated=True,
    )
    post.owner.adopt(output["id"], Path(output["directory"]), policy=post.owner.permit(policy), broker=post.broker)
    world.permit_all(programs=[USE.encode()])
    inputs = {home.dataset: (name, home.encrypted) for name, home in world.owners.items()}
    inputs["digit-reader"] = ("post", Path(output["directory"]))
    report = world.run(world.write_job("use", program=USE, outputs={"used": "table"}, inputs=inputs))
    assert world.fetch(report, "used") == [{"same": True, "seen": 1400}]
