"""A small world with a cluster beside it, in which tests place jobs: the double, or a real one."""

import json
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import small_world

from strongroom.cli.journey import run
from strongroom.jobs.launch.kubernetes import KubernetesHost
from strongroom.jobs.launch.kubernetes.access import find_access
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.carrying import carry
from strongroom.jobs.launch.kubernetes.settings import parse_settings

IMAGE = "strongroom:test"
_PATIENCE_SECONDS = 240  # a real node takes its time to start and to end pods


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def wait_until(condition) -> None:
    small_world.wait_until(condition, seconds=_PATIENCE_SECONDS)


@dataclass
class Lab:
    """A small world and a cluster beside it."""

    world: object
    cluster: object

    def settings(self, *, storage: str = "", **changes: object) -> str:
        storage = storage or str(self.world.directory)
        keys = {
            "namespace": self.cluster.namespace,
            "flavour": "simulated",
            "directory": f"{storage}/jobs",
            "driver_port": free_port(),
            "start_seconds": 60,
            **self.cluster.settings,
            **changes,
        }
        lines = ["[kubernetes]"]
        lines += [
            f"{name} = {value}" if isinstance(value, int) else f'{name} = "{value}"' for name, value in keys.items()
        ]
        lines += [
            "[[kubernetes.volumes]]",
            f'mount = "{storage}"',
            f'claim = "{self.cluster.claim}"',
            "read_only = false",
            # A driver, a worker of one core and an egress must have room on a node of two cores.
            "[kubernetes.driver]",
            'cores = "200m"',
            "[kubernetes.egress]",
            'cores = "100m"',
            'memory = "1Gi"',
            "[kubernetes.endpoint]",
            'cores = "200m"',
            'memory = "1Gi"',
        ]
        return "\n".join(lines) + "\n"

    def host(self, *, detached: bool = False, **changes: object) -> KubernetesHost:
        access = find_access(environ={"KUBECONFIG": str(self.cluster.kubeconfig)})
        settings = parse_settings(self.settings(**changes))
        seed = (self.world.platform.directory / "seed").read_bytes()
        cluster = Cluster(access, namespace=settings.namespace)
        return KubernetesHost(cluster, settings=settings, seed=seed, detached=detached)

    def run(self, *, job=None, engine: str = "embedded", on_event=lambda _name, _facts: None, **changes: object):
        return self.world.analyst.run(
            job or self.world.write_job(),
            broker=self.world.analyst_door(),
            host=self.host(**changes),
            engine=engine,
            directory=self.world.job_directory(),
            on_event=on_event,
        )

    def leave(self, *, job=None, engine: str = "embedded", on_event=lambda _name, _facts: None, **changes: object):
        return self.world.analyst.leave(
            job or self.world.write_job(),
            broker=self.world.analyst_door(),
            host=self.host(detached=True, **changes),
            engine=engine,
            on_event=on_event,
        )

    def fetch(self, report, output: str = "baskets", **changes: object) -> list[dict[str, object]]:
        """Fetch a result as an analyst does whose machine does not see the cluster's storage."""
        host = self.host(**changes)
        with tempfile.TemporaryDirectory() as folder:

            def bring(left_at: str) -> Path:
                target = Path(folder) / "output"
                carry(host.cluster, settings=host.settings, job="test", directory=left_at, target=target)
                return target

            found = self.world.analyst.fetch_any(
                broker=self.world.analyst_door(), digest=report.digest, output=output, locate=bring
            )
            return found.to_pylist()

    def names(self, plural: str) -> list[str]:
        return self.cluster.names(plural)


@dataclass
class Desk:
    """A person's desk: a home with the analyst's keys, a kubeconfig, and the cluster's settings in a file."""

    lab: Lab
    place: Path
    file: Path

    @classmethod
    def open(cls, lab: Lab, place: Path, monkeypatch) -> "Desk":
        monkeypatch.setenv("KUBECONFIG", str(lab.cluster.kubeconfig))
        file = place / "cluster.toml"
        file.write_text(lab.settings())
        (place / "password").write_text("a long enough password\n")
        desk = cls(lab, place, file)
        small_world.write_home(lab.world, lab.world.analyst, place / "home")
        return desk

    @property
    def party(self) -> list[str]:
        return ["--home", str(self.place / "home"), "--password-file", str(self.place / "password")]

    def answer(self, capsys, *words: object, code: int = 0) -> dict:
        capsys.readouterr()
        returned = run([*map(str, words), "--settings", str(self.file), "--json"])
        said = capsys.readouterr()
        assert returned == code, said.err
        return json.loads(said.out)

    def forget_jobs(self) -> None:
        """Be the same analyst on another machine."""
        shutil.rmtree(self.place / "home" / "jobs")
