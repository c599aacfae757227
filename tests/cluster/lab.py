"""A small world with a cluster beside it, in which tests place jobs."""

import socket
from dataclasses import dataclass

from api_server import NAMESPACE, FakeCluster

from strongroom.jobs.launch.kubernetes import KubernetesHost
from strongroom.jobs.launch.kubernetes.access import find_access
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.settings import parse_settings

IMAGE = "strongroom:test"


def settings_text(world, *, storage: str = "", **changes: object) -> str:
    port, storage = free_port(), storage or str(world.directory)
    keys = {
        "namespace": NAMESPACE,
        "image": IMAGE,
        "flavour": "simulated",
        "directory": f"{storage}/jobs",
        "driver_port": port,
        "start_seconds": 60,
        **changes,
    }
    lines = ["[kubernetes]"]
    lines += [f"{name} = {value}" if isinstance(value, int) else f'{name} = "{value}"' for name, value in keys.items()]
    lines += ["[[kubernetes.volumes]]", f'mount = "{storage}"', 'claim = "storage"', "read_only = false"]
    return "\n".join(lines) + "\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@dataclass
class Lab:
    """A small world and a cluster beside it."""

    world: object
    cluster: FakeCluster

    def host(self, **changes: object) -> KubernetesHost:
        access = find_access(environ={"KUBECONFIG": str(self.cluster.kubeconfig)})
        settings = parse_settings(settings_text(self.world, **changes))
        seed = (self.world.platform.directory / "seed").read_bytes()
        return KubernetesHost(Cluster(access, namespace=settings.namespace), settings=settings, seed=seed)

    def run(self, *, job=None, engine: str = "embedded", on_event=lambda _name, _facts: None, **changes: object):
        return self.world.analyst.run(
            job or self.world.write_job(),
            broker=self.world.analyst_door(),
            host=self.host(**changes),
            engine=engine,
            directory=self.world.job_directory(),
            on_event=on_event,
        )
