"""An attacker listens while XGBoost and LightGBM learn on several workers, or comes to XGBoost's open door first."""

from __future__ import annotations

import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mesh_world import mesh_world
from packets import every_packet, found, ports

from strongroom.workload.boosting.lightgbm import Network
from strongroom.workload.boosting.rabit import LocalRing, RingError
from strongroom.workload.boosting.xgboost import Collective
from strongroom.workload.confinement import confine

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

# What ranks add up begins with these eight bytes, over and over; sent as it is, it is found in any packet.
KNOWN = np.tile([1.2345678], 50_000)
NEEDLE = KNOWN.tobytes()[:8]


def add_up() -> np.ndarray:
    return xgboost.collective.allreduce(KNOWN.copy(), xgboost.collective.Op.SUM)


def test_what_xgboost_says_in_the_clear_stays_within_each_worker(tmp_path):
    """The capture sees it there, on connections of a process with itself, and nothing of it between the workers."""
    with mesh_world(2) as world, every_packet() as packets:
        meshes = world.connect()
        made = [Collective(mesh, confine=lambda: confine([tmp_path], keep_signals=True)) for mesh in meshes]
        sums = world.together(lambda rank: made[rank].run(add_up))
        doors = {door.address[1] for door in world.doors}
        for mesh in meshes:
            mesh.close()
    assert all(np.array_equal(one, 2 * KNOWN) for one in sums)
    between = [packet for packet in packets if doors & set(ports(packet))]
    within = [packet for packet in packets if not doors & set(ports(packet))]
    assert sum(len(packet) for packet in between) > 2 * KNOWN.nbytes
    assert found(within, NEEDLE) > 0
    assert found(between, NEEDLE) == found(between, (2 * KNOWN).tobytes()[:8]) == 0


def test_what_lightgbm_says_is_on_no_wire():
    """It has one distinct label, whose sum it begins with, as a double."""
    label = 9.8765432101  # nobody else's, for all tests share the loopback interface

    def learn(rank: int) -> str:
        shared = {"num_machines": 2, "pre_partition": True, "num_threads": 1, "verbose": -1}
        rows = lightgbm.Dataset(np.random.default_rng(rank).normal(size=(500, 3)), np.full(500, label), params=shared)
        made = lightgbm.train({"objective": "regression", "tree_learner": "data", **shared}, rows, 2)
        return made.model_to_string()

    with mesh_world(2) as world, every_packet() as packets:
        meshes = world.connect()
        models = world.together(lambda rank: Network(meshes[rank]).run(lambda: learn(rank)))
        for mesh in meshes:
            mesh.close()
    assert models[0] == models[1]
    assert sum(len(packet) for packet in packets) > 10_000
    for said in (label, 500 * label):
        assert found(packets, struct.pack("<d", said)) == found(packets, struct.pack("<f", said)) == 0


class Worker(threading.Thread):
    """Says what XGBoost's worker of rank 0 says when it starts; ``before`` happens once its door is open."""

    def __init__(self, settings, *, before) -> None:
        super().__init__(daemon=True)
        self._settings, self._before = settings, before
        self.kept: list[socket.socket] = []

    def run(self) -> None:
        tracker = self._keep(socket.create_connection(("127.0.0.1", self._settings["dmlc_tracker_port"])))
        door, errors = (self._keep(socket.create_server(("0.0.0.0", 0))) for _ in range(2))  # as XGBoost does
        port = door.getsockname()[1]
        self._before(port)
        tracker.sendall(struct.pack("=i", 0xFF99))
        tracker.recv(4)
        for said in ({"rank": -1}, {"cmd": 1, "port": port, "error_port": errors.getsockname()[1]}):
            text = json.dumps(said).encode()
            tracker.sendall(struct.pack("=i", len(text)) + text)
        self._text(tracker)
        neighbour = json.loads(self._text(tracker))
        after = self._keep(socket.create_connection((neighbour["host"], neighbour["port"])))
        before = self._keep(door.accept()[0])  # whoever came first
        after.sendall(bytes(2 * 68))
        before.settimeout(5)
        hosts = before.recv(2 * 64, socket.MSG_WAITALL)
        found_ports = struct.unpack("=2i", before.recv(8, socket.MSG_WAITALL))
        assert hosts.rstrip(b"\0").endswith(b"127.0.0.1")
        link = self._keep(socket.create_connection(("127.0.0.1", found_ports[1])))
        link.sendall(struct.pack("=i", 0))

    def _text(self, source: socket.socket) -> bytes:
        (size,) = struct.unpack("=i", source.recv(4, socket.MSG_WAITALL))
        return source.recv(size, socket.MSG_WAITALL)

    def _keep(self, one: socket.socket) -> socket.socket:
        self.kept.append(one)
        return one


def start(before, *, seconds: float = 10) -> None:
    ring = LocalRing(rank=0, size=2, seconds=seconds)
    worker = Worker(ring.settings, before=before)
    worker.start()
    try:
        links = ring.serve()
        worker.join(10)
        ring.verify(links)
    finally:
        ring.close()
        for one in worker.kept:
            one.close()


def test_a_worker_that_nobody_disturbs_starts():
    start(lambda port: None)


def test_a_stranger_who_comes_first_to_the_workers_door_is_noticed_before_anything_is_said():
    """It passes for the neighbour, and has the worker connect to itself instead of the other rank."""
    strangers = []

    def come(port: int) -> None:
        own_door = socket.create_server(("127.0.0.1", 0))
        stranger = socket.create_connection(("127.0.0.1", port))
        stranger.sendall(b"127.0.0.1".ljust(64, b"\0") * 2 + struct.pack("=2i", port, own_door.getsockname()[1]))
        strangers.extend((stranger, own_door))

    with pytest.raises(RingError, match="did not start as expected"):
        start(come, seconds=0.5)
    for stranger in strangers:
        stranger.close()


def test_a_stranger_behind_the_neighbour_is_noticed_too():
    """It waits in the line of the door, as the next connection that the worker would take for another's."""
    strangers = []

    def start_with_one_more() -> None:
        ring = LocalRing(rank=0, size=2)
        worker = Worker(ring.settings, before=lambda port: None)
        worker.start()
        links = ring.serve()
        worker.join(10)
        door = worker.kept[1]
        strangers.append(socket.create_connection(("127.0.0.1", door.getsockname()[1])))
        worker.kept.append(door.accept()[0])
        try:
            ring.verify(links)
        finally:
            ring.close()
            for one in worker.kept:
                one.close()

    with pytest.raises(RingError, match="somebody else connected"):
        start_with_one_more()
    strangers[0].close()


def test_a_worker_that_speaks_something_else_is_refused_by_name():
    ring = LocalRing(rank=0, size=2)

    def speak() -> None:
        with socket.create_connection(("127.0.0.1", ring.settings["dmlc_tracker_port"])) as tracker:
            tracker.sendall(b"GET / HTTP/1.1\r\n\r\n")

    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(speak)
        with pytest.raises(RingError, match="expected"):
            ring.serve()
        speaking.result(5)
    ring.close()
