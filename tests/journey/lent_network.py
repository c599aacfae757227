"""Several hosts on one machine: a network namespace for each, a bridge between them, and a capture of all they say."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23


class Network:
    """A bridge that this process stands on, too; ``slow`` and ``cut`` act on the wire of one host."""

    def __init__(self) -> None:
        number = os.getpid() % 4000
        self._tag = f"sr{number:x}"
        self._net = f"10.{200 + number // 250}.{number % 250}"
        self.bridge = f"{self._tag}br"
        self.address = f"{self._net}.1"
        self.hosts: list[str] = []

    def open(self) -> None:
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.address}/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    def add(self, name: str) -> str:
        """Make a host and return its address."""
        self.hosts.append(name)
        space, wire, address = self.space(name), self.wire(name), f"{self._net}.{10 + len(self.hosts)}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", wire, "master", self.bridge, "up")
        for command in (
            f"addr add {address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
        ):
            run("ip", "-n", space, *command.split())
        return address

    def space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def wire(self, name: str) -> str:
        return f"{self._tag}{name}"

    def within(self, name: str) -> list[str]:
        """The command prefix that runs what follows on a host."""
        return ["ip", "netns", "exec", self.space(name)]

    def slow(self, name: str) -> None:
        """Give a host a narrow wire: packets queue, and are lost when the short queue is full."""
        shape = ("tbf", "rate", "2mbit", "burst", "4kb", "latency", "20ms")
        run("tc", "qdisc", "add", "dev", self.wire(name), "root", *shape)
        run(*self.within(name), "tc", "qdisc", "add", "dev", "eth0", "root", *shape)

    def lost_packets(self, name: str) -> int:
        """How many packets to and from a slow host its queues have dropped."""
        show = ("tc", "-s", "qdisc", "show", "dev")
        said = run(*show, self.wire(name)), run(*self.within(name), *show, "eth0")
        return sum(int(one.partition("dropped ")[2].partition(",")[0]) for one in said)

    def cut(self, name: str) -> None:
        """Pull a host's plug: nothing arrives, and nobody is told."""
        run("ip", "link", "set", self.wire(name), "down")

    def close(self) -> None:
        for name in self.hosts:
            subprocess.run(["ip", "link", "del", self.wire(name)], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)


class Capture:
    """Everything that crosses the wires of some hosts, searched for texts that must not be there."""

    def __init__(self, network: Network, *names: str, texts: tuple[bytes, ...]) -> None:
        self.bytes = 0
        self.found: set[bytes] = set()
        self._texts = texts
        self._sockets = []
        for name in names:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            tap.bind((network.wire(name), 0))
            self._sockets.append(tap)
            threading.Thread(target=self._listen, args=(tap,), daemon=True).start()

    def _listen(self, tap: socket.socket) -> None:
        tail = b""
        while True:
            try:
                packet = tap.recv(1 << 17)
            except OSError:
                return
            self.bytes += len(packet)
            self.found |= {text for text in self._texts if text in packet or text in tail + packet}
            tail = packet[-64:]

    def close(self) -> None:
        for tap in self._sockets:
            tap.close()


@contextmanager
def lent_network():
    """A network for tests, which takes the right to make one."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    if not (shutil.which("ip") and shutil.which("tc")):
        run(str(ROOT / "scripts/apt"), "iproute2")
    network = Network()
    try:
        network.open()
        yield network
    finally:
        network.close()


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
