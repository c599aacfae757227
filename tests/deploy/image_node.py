"""A node of the cluster's double whose containers really run from an image's root: read-only, as the image's user.

bubblewrap makes each container: the image's files and nothing else, the pod's volumes, a process space of its own, no
capability. The network is the machine's loopback, as on all nodes of the double.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "cluster"), str(Path(__file__).parents[1] / "journey")]

from api_server import FakeCluster  # noqa: E402
from cluster_node import ADDRESS, Node  # noqa: E402

USER = "10001"
NAMESERVER = "127.0.0.9"  # of every container; nobody answers there


def contained(root: Path, environment: dict[str, str], *mounts: str, user: str = USER) -> list[str]:
    """Return how a command is started in ``root``, which stays as it is."""
    command = ["bwrap", "--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"]
    command += ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", *mounts]
    command += ["--uid", user, "--gid", user, "--clearenv"]
    return [*command, *(word for name, value in environment.items() for word in ("--setenv", name, value))]


class ImageNode(Node):
    root: Path
    image_environment: dict[str, str]

    def _command(self, pod: dict, namespace: str) -> list[str]:
        (container,) = pod["spec"]["containers"]
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        mounts: list[str] = []
        for mount in container["volumeMounts"]:
            volume, path = volumes[mount["name"]], mount["mountPath"]
            (self.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)  # as runtimes do in a layer of their own
            if "emptyDir" in volume:
                mounts += ["--tmpfs", path]
            elif "configMap" in volume:
                mounts += ["--ro-bind", str(self._lay_map(namespace, volume["configMap"]["name"])), path]
            elif "projected" in volume:
                mounts += ["--ro-bind", str(self._lay_account(pod, volume["projected"]["sources"])), path]
            else:
                folder = str(self.claims[volume["persistentVolumeClaim"]["claimName"]])
                mounts += ["--ro-bind" if mount.get("readOnly") else "--bind", folder, path]
        hosts = self.directory / "hosts" / pod["metadata"]["uid"]  # a kubelet gives every pod its own
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(f"{ADDRESS} localhost {pod['metadata']['name']}\n")
        (self.root / "etc/hosts").touch()
        names = hosts.with_suffix(".resolv")
        names.write_text(f"nameserver {NAMESERVER}\n")
        (self.root / "etc/resolv.conf").touch()
        mounts += ["--ro-bind", str(names), "/etc/resolv.conf"]
        mounts += ["--ro-bind", str(hosts), "/etc/hosts", "--unshare-uts", "--hostname", pod["metadata"]["name"]]
        environment = {**self.image_environment, **self.environment}
        for one in container.get("env", ()):
            environment[one["name"]] = ADDRESS
        command = [*container.get("command", ()), *container.get("args", ())]
        return [
            *contained(self.root, environment, *mounts, user=str(pod["spec"]["securityContext"]["runAsUser"])),
            *(one.replace("$(POD_IP)", ADDRESS) for one in command),
        ]


class ImageCluster(FakeCluster):
    """A cluster whose one node has the image that was unpacked into ``root``."""

    def __init__(self, directory: Path, *, root: Path, environment: dict[str, str], **more) -> None:
        self.node_kind = type("Imaged", (ImageNode,), {"root": root, "image_environment": environment})
        super().__init__(directory, **more)
