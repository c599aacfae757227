"""From submit to the first task through the Kubernetes path: client, API server, pods, attestation, Spark.

The API server is the double of the tests, over TLS, with one node that runs pods as processes of this machine. Members
of a crowd are pods whose worker is a thread of the node: it proves itself with genuine simulated evidence, is admitted,
and starts no Java.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks._admissions import join_driver, prepare_worker

if TYPE_CHECKING:
    from strongroom.demo.world import World

AT_ONCE = 16  # members of a crowd that prove themselves at the same time, as on 16 cores of as many nodes
IMAGE = "strongroom:bench"
_WAIT_SECONDS = 600.0
_STEPS = ("submit", "launch-driver", "attest-driver", "attest-broker", "key-release", "attest-worker", "worker-keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One job on the cluster: seconds from submit to the end of its first task, of its steps, and the most memory."""

    seconds: float
    steps: dict[str, float]
    mebibytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """One crowd: seconds from submit until each was in, in that order."""

    times: tuple[float, ...]

    @property
    def workers(self) -> int:
        """Return how many they are."""
        return len(self.times)

    @property
    def last(self) -> float:
        """Return when all were in."""
        return self.times[-1]

    @property
    def rate(self) -> float:
        """Return how many came in a second, from the first to the last."""
        return (self.workers - 1) / max(self.times[-1] - self.times[0], 1e-9)


def place_attested(
    world: World,
    workers: int,
    *,
    program: str,
    memory: str,
    on_event: Callable[[str, Any], None] = lambda _name, _facts: None,
) -> Placed:
    """Run a Spark job of one task as an analyst submits it."""
    from strongroom.jobs.launch.kubernetes import KubernetesHost

    job = _write_job(world, name="first", program=program, workers=workers, memory=memory)
    with _cluster(world) as (double, connection, settings):
        del double
        seed = (world.platform.directory / "seed").read_bytes()
        host = KubernetesHost(connection, settings=settings, seed=seed)
        with closing(world.analyst.attest_broker(world.broker_url)) as broker, _peak() as peak:
            started = time.time()
            report = world.analyst.run(
                job, broker=broker, host=host, engine="spark", directory=world.directory, on_event=on_event
            )
            (output,) = report.outputs
            place = Path(output["directory"])
            found = world.analyst.fetch(broker=broker, digest=report.digest, output="first", location=place)
    steps = {step: report.timings[step] for step in _STEPS if step in report.timings}
    return Placed(seconds=found.column("at")[0].as_py() - started, steps=steps, mebibytes=peak())


def place_bare(world: World, workers: int, *, memory: str) -> Placed:
    """Make pods through the same API server that run the same Spark and prove nothing."""
    from strongroom.jobs.launch.kubernetes.manifests import plain_pod

    with _cluster(world) as (double, connection, settings), tempfile.TemporaryDirectory(dir=world.directory) as made:
        double.node.environment["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
        command = ["python3", "-m", "benchmarks._bare_pod", "--folder", made]
        command += ["--workers", str(workers), "--memory", memory]
        done = Path(made) / "done"
        with _peak() as peak:
            started = time.time()
            for number in range(workers + 1):
                metadata = {"name": f"bare-{number}", "namespace": settings.namespace, "labels": {"job": "bare"}}
                pod = plain_pod(settings, metadata, [*command, "--number", str(number)])
                connection.create(pod, what="make a pod")
            _wait(done.exists, what="the first task without attestation")
        seconds = float(done.read_text()) - started
        for number in range(workers, -1, -1):
            connection.delete("pods", f"bare-{number}", grace=1)
        _wait(lambda: not double.names("pods"), what="the end of the pods")
    return Placed(seconds=seconds, steps={}, mebibytes=peak())


def place_crowd(world: World, workers: int, *, program: str, attested: bool, tell: Callable[[str], None]) -> Crowd:
    """Submit a Spark job that wants ``workers``, whose pods prove themselves, or only run, and start no Java."""
    from strongroom.jobs.launch.kubernetes import KubernetesHost

    job = _write_job(world, name="sleeper", program=program, workers=workers, memory="1g")
    arrived = _Arrivals(workers)
    with _cluster(world, arrived=arrived, attested=attested) as (double, connection, settings):
        seed = (world.platform.directory / "seed").read_bytes()
        host = KubernetesHost(connection, settings=settings, seed=seed)
        with closing(world.analyst.attest_broker(world.broker_url)) as broker:
            started = time.monotonic()
            submitted = world.analyst.submit(job, broker=broker)
            double.node.job_digest = submitted.digest
            launcher = world.analyst.launch(submitted, host=host, engine="spark", directory=world.directory)
            try:
                client = world.analyst.attest_driver(submitted, launcher.start_address)
                world.analyst.hand_over(submitted, client, broker=broker)
                _wait(lambda: arrived.complete or launcher.trouble or double.node.troubles, what=f"{workers} workers")
                if not arrived.complete:
                    raise RuntimeError(launcher.trouble or double.node.troubles[0])
                client.close()
            finally:
                launcher.stop(keep=False)
    times = tuple(sorted(one - started for one in arrived.times[:workers]))
    tell(f"{workers} pods {'admitted' if attested else 'running'} {times[-1]:.1f} s after submit")
    return Crowd(times=times)


class _Arrivals:
    """When each worker of a crowd was in."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.times: list[float] = []
        self._lock = threading.Lock()

    def note(self) -> None:
        with self._lock:
            self.times.append(time.monotonic())

    @property
    def complete(self) -> bool:
        return len(self.times) >= self.wanted


@contextlib.contextmanager
def _cluster(
    world: World, *, arrived: _Arrivals | None = None, attested: bool = True
) -> Iterator[tuple[Any, Any, Any]]:
    """Start the double over the world's storage; yield it, a client of it, and the settings of jobs there."""
    from strongroom.attestation.simulated.measuring import installed_package
    from strongroom.jobs.launch.kubernetes.access import find_access
    from strongroom.jobs.launch.kubernetes.api import Cluster
    from strongroom.jobs.launch.kubernetes.settings import parse_settings

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
    from api_server import FakeCluster

    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-cluster-"))
    storage = world.directory
    kind = FakeCluster if arrived is None else _crowd_cluster()
    double = kind(directory, claims={"storage": storage}, images={IMAGE}, package=installed_package())
    double.node.environment["PYTHONPATH"] = str(installed_package().parent)
    if arrived is not None:
        double.node.prepare_crowd(world, arrived, attested=attested)
    settings = parse_settings(
        "[kubernetes]\n"
        f'namespace = "{double.namespace}"\nflavour = "simulated"\nimage = "{IMAGE}"\n'
        f'directory = "{storage}/jobs"\ndriver_port = {_free_port()}\nstart_seconds = 600\n'
        f'[[kubernetes.volumes]]\nmount = "{storage}"\nclaim = "storage"\nread_only = false\n'
    )
    connection = Cluster(find_access(environ={"KUBECONFIG": str(double.kubeconfig)}), namespace=settings.namespace)
    try:
        yield double, connection, settings
    finally:
        connection.close()
        double.close()
        shutil.rmtree(directory, ignore_errors=True)


def _crowd_cluster() -> type:
    """Return a double whose node runs workers as threads."""
    from api_server import FakeCluster
    from cluster_node import Node

    class CrowdNode(Node):
        job_digest = ""

        def prepare_crowd(self, world: World, arrived: _Arrivals, *, attested: bool) -> None:
            self.crowd, self.arrived, self.attested = world, arrived, attested
            self.doors = threading.Semaphore(AT_ONCE)
            self.channels: list[Any] = []
            self.troubles: list[str] = []
            threading.Thread(target=self._pulse, daemon=True).start()

        def _run(self, pod: dict, key: tuple[str, str, str]) -> None:
            if pod["metadata"]["labels"].get("strongroom.dev/role") != "worker":
                super()._run(pod, key)
                return
            self._change(key, self._running)
            if not self.attested:
                self.arrived.note()
            else:
                command = pod["spec"]["containers"][0]["command"]
                host, _, port = command[command.index("--driver") + 1].rpartition(":")
                try:
                    with self.doors:
                        tee, verifier = prepare_worker(self.crowd, job=self.job_digest)
                        self.channels.append(
                            join_driver(
                                (host, int(port)),
                                tee=tee,
                                verifier=verifier,
                                job=self.job_digest,
                                deadline=_WAIT_SECONDS,
                            )
                        )
                    self.arrived.note()
                except Exception as error:  # noqa: BLE001  told by whoever waits for the crowd
                    self.troubles.append(f"{key[2]}: {type(error).__name__}: {error}")
            while not self._deleted(key) and not self.closing.wait(1.0):
                pass
            self.store.remove(*key)

        def _pulse(self) -> None:
            while not self.closing.wait(10.0):
                for channel in list(self.channels):
                    with contextlib.suppress(Exception):
                        channel.send({"type": "alive"})

        def close(self) -> None:
            super().close()
            for channel in self.channels:
                channel.close()

    return type("CrowdCluster", (FakeCluster,), {"node_kind": CrowdNode})


def _write_job(world: World, *, name: str, program: str, workers: int, memory: str) -> Path:
    home = world.directory / "analyst"
    (home / f"{name}.py").write_text(program)
    (dataset,) = [owner.dataset for owner in world.owners.values()]
    text = world.job_toml(program=f"{name}.py", kind="spark", outputs=["first"], columns={dataset: ["*"]})
    text = text.replace("workers = 2", f"workers = {workers}")
    text = text.replace('worker_memory = "1g"', f'worker_memory = "{memory}"')
    (home / f"{name}.toml").write_text(text)
    return home / f"{name}.toml"


@contextlib.contextmanager
def _peak() -> Iterator[Callable[[], float]]:
    """Watch how much memory of their own all processes below this one take together; yield a reader."""
    most, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            total = 0
            for one in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    memory = one.memory_info()
                    total += memory.rss - memory.shared
            most[0] = max(most[0], total / (1 << 20))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        over.set()
        thread.join()


def _wait(condition: Callable[[], object], *, what: str) -> None:
    until = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"{what}: not within {_WAIT_SECONDS:.0f} s")
        time.sleep(0.02)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
