"""XGBoost and LightGBM learn over the mesh what they learn over their own sockets, and end clearly when one fails."""

from __future__ import annotations

import inspect
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from mesh_world import mesh_world

from strongroom.errors import UsageError
from strongroom.workload.boosting.stage import EnclaveLoopbackError, Stage
from strongroom.workload.confinement import confine, landlock_abi
from strongroom.workload.mesh.links import PeerLostError
from strongroom.workload.mesh.mesh import Mesh

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

_rounds = iter(range(1, 1000))
_DEALT = np.random.default_rng(0)
ROWS = _DEALT.normal(size=(1500, 6))
NAMES = (ROWS[:, 0] * ROWS[:, 1] + ROWS[:, 2] > 0).astype(float)


class Enclave:
    tee, simulated = "sgx", False


class Guest:
    tee, simulated = "tdx", False


@pytest.fixture(scope="module")
def world():
    with mesh_world(3) as made:
        yield made


@contextmanager
def stages(world, tmp_path, count: int, *, tee=Guest):
    """As many ranks of one mesh, in this process."""
    number, places = next(_rounds), world.places[:count]
    with ThreadPoolExecutor(count) as pool:
        rosters = [world.roster(rank, number=number, places=places) for rank in range(count)]
        meshes = list(pool.map(lambda rank: world.doors[rank].open(rosters[rank]), range(count)))
        made = [Stage(mesh, tee=tee(), confine=lambda: confine([tmp_path], keep_signals=True)) for mesh in meshes]
        try:
            yield (
                made,
                meshes,
                lambda act: [one.result(60) for one in [pool.submit(act, rank) for rank in range(count)]],
            )
        finally:
            for stage, mesh in zip(made, meshes, strict=True):
                stage.close()
                mesh.close()


def boost(rank: int, count: int, **more) -> bytes:
    rows = xgboost.QuantileDMatrix(ROWS[rank::count], NAMES[rank::count])
    settings = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}
    return bytes(xgboost.train(settings, rows, 8, evals=[(rows, "own")], verbose_eval=False, **more).save_raw("json"))


def light(rank: int, count: int) -> str:
    shared = {"num_machines": count, "pre_partition": True, "num_threads": 1, "verbose": -1, "deterministic": True}
    rows = lightgbm.Dataset(ROWS[rank::count], NAMES[rank::count], params=shared)
    made = lightgbm.train({"objective": "binary", "tree_learner": "data", **shared}, rows, 8)
    return made.model_to_string().partition("parameters:")[0]


def plain_xgboost(count: int) -> list[bytes]:
    """The same ranks as XGBoost has it: its tracker, and its own sockets in the clear."""
    tracker = xgboost.tracker.RabitTracker.__new__(xgboost.tracker.RabitTracker)
    unguarded = inspect.unwrap(tracker.__init__.__func__)  # another test may have held this process to one worker
    unguarded(tracker, n_workers=count, host_ip="127.0.0.1", sortby="task")
    tracker.start()

    def work(rank: int) -> bytes:
        with xgboost.collective.CommunicatorContext(**tracker.worker_args(), dmlc_task_id=str(rank)):
            return boost(xgboost.collective.get_rank(), count)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def plain_lightgbm(count: int) -> list[str]:
    """The same ranks as LightGBM has it."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    machines = ",".join(f"127.0.0.1:{port}" for port in ports)

    def work(rank: int) -> str:
        network = lightgbm.basic._LIB
        assert network.LGBM_NetworkInit(machines.encode(), ports[rank], 60, count) == 0
        try:
            return light(rank, count)
        finally:
            network.LGBM_NetworkFree()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


@pytest.mark.parametrize("count", [2, 3])
def test_xgboost_learns_what_it_learns_over_its_own_sockets(world, tmp_path, count):
    with stages(world, tmp_path, count) as (made, _, together):
        found = together(lambda rank: made[rank].xgboost(lambda: boost(rank, count)))
        again = together(lambda rank: made[rank].xgboost(lambda: boost(rank, count)))
    assert found == plain_xgboost(count) == again
    assert found[0] == found[-1]
    assert found[0] != boost(0, count)  # which is what a rank learns from its own rows


@pytest.mark.parametrize("count", [2, 3])
def test_lightgbm_learns_what_it_learns_over_its_own_sockets(world, tmp_path, count):
    with stages(world, tmp_path, count) as (made, _, together):
        found = together(lambda rank: made[rank].lightgbm(lambda: light(rank, count)))
    assert found == plain_lightgbm(count)
    assert found[0] == found[-1]


def test_what_learns_has_no_network_of_its_own(world, tmp_path):
    if landlock_abi() < 4:
        pytest.skip("this kernel has no Landlock for TCP")

    def escape() -> str:
        try:
            socket.create_connection(world.doors[0].address, timeout=5).close()
        except PermissionError as error:
            return type(error).__name__
        return "connected"

    with stages(world, tmp_path, 2) as (made, _, together):
        assert together(lambda rank: made[rank].xgboost(escape)) == ["PermissionError"] * 2


@pytest.mark.parametrize("seconds", [0, 0.5], ids=["before the others wrote", "leaving unread what they wrote"])
def test_what_one_rank_raises_ends_the_others_too(world, tmp_path, seconds):
    def fail(rank: int):
        if rank == 1:
            time.sleep(seconds)
            raise ZeroDivisionError
        return boost(rank, 2)

    def attempt(rank: int) -> str:
        try:
            made[rank].xgboost(lambda: fail(rank))
        except Exception as error:  # noqa: BLE001
            return type(error).__name__
        return "done"

    with stages(world, tmp_path, 2) as (made, _, together):
        assert together(attempt) == ["XGBoostError", "ZeroDivisionError"]


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_worker_that_is_lost_is_named(world, tmp_path, library):
    with stages(world, tmp_path, 2) as (made, meshes, together):
        begun = threading.Event()

        def learn(rank: int):
            begun.set()
            if rank == 1:
                time.sleep(0.3)
                meshes[1].close()
            return boost(rank, 2) if library == "xgboost" else light(rank, 2)

        def attempt(rank: int) -> Exception | None:
            try:
                getattr(made[rank], library)(lambda: learn(rank))
            except Exception as error:  # noqa: BLE001
                return error
            return None

        first, _ = together(attempt)
        assert isinstance(first, PeerLostError)
        assert "worker 1 is gone" in str(first)
        assert meshes[0].broken


def test_one_worker_alone_needs_no_collective(tmp_path):
    stage = Stage(Mesh.alone(), tee=Enclave(), confine=lambda: confine([tmp_path], keep_signals=True))
    assert stage.xgboost(lambda: boost(0, 1)) == boost(0, 1)
    assert stage.lightgbm(lambda: 5) == 5
    stage.close()


def test_enclaves_whose_loopback_is_the_hosts_are_told_so(world, tmp_path):
    with (
        stages(world, tmp_path, 2, tee=Enclave) as (made, _, __),
        pytest.raises(EnclaveLoopbackError, match="through the host's kernel"),
    ):
        made[0].xgboost(lambda: boost(0, 2))


def test_a_version_that_is_not_known_is_refused_by_number(world, tmp_path, monkeypatch):
    monkeypatch.setattr(xgboost, "__version__", "3.4.1")
    with stages(world, tmp_path, 2) as (made, _, __), pytest.raises(UsageError, match=r"XGBoost 3\.4\.1"):
        made[0].xgboost(lambda: boost(0, 2))
