"""What every test may rely on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

settings.register_profile("strongroom", deadline=None)  # a busy machine is not a failure; pytest has a timeout
settings.load_profile("strongroom")
_SLOW_SECONDS = 1200  # a cluster on a busy machine

if TYPE_CHECKING:
    import pyarrow as pa

    from strongroom.envelope.keys import DataKey
    from strongroom.envelope.manifest import Column, FileEntry, Manifest
    from strongroom.workload.agent import KeyAgent
    from strongroom.workload.spark.cluster import ExecutorProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that start heavy servers on one worker process, one after the other; give slow ones their time."""
    for item in items:
        for name in ("spark", "openbao", "postgres", "softhsm"):
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.xdist_group(name))
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case with a long text by its length, so that its name can be read and is the same in every process."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > 100 else None


@pytest.fixture(scope="session")
def spark_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkRoom]:
    """Lend one Spark cluster, a driver and two executors, to every test of a session that asks for it."""
    room = SparkRoom(tmp_path_factory.mktemp("spark"))
    try:
        room.start()
        yield room
    finally:
        room.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """Lend one PostgreSQL server to every test of a session that asks for it."""
    sys.path.insert(0, str(Path(__file__).parent / "unit" / "broker"))
    from postgres import Server

    server = Server()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Lend SoftHSM's tokens to every test of a session that asks for them; this process keeps them to its end."""
    sys.path.insert(0, str(Path(__file__).parent / "unit" / "envelope"))
    from softhsm import SoftHsm

    hsm = SoftHsm(tmp_path_factory.mktemp("softhsm"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOFTHSM2_CONF", str(hsm.settings))
        yield hsm


class SparkRoom:
    """A cluster on this machine with the keys of one dataset, ``trips@1``, and of one output, ``output.result@1``."""

    def __init__(self, disk: Path) -> None:
        from strongroom.envelope.keys import DataKey, DatasetKeys
        from strongroom.statements import SigningKey

        self.disk, self.outbox, self.inputs = disk, disk / "outbox", disk / "inputs"
        self.outbox.mkdir()
        self.inputs.mkdir()
        self.owner = SigningKey.generate(name="owner")
        self.secret = os.urandom(32)
        dek = DataKey.generate()
        self.keys = DatasetKeys.from_dek(dek, dataset="trips", version=1, columns=["id", "fare", "name", "tags"])
        self.released = DatasetKeys(
            "trips", 1, {name: self.keys.key(name) for name in self.keys.key_ids if not name.endswith("/name")}
        )
        self.output = DatasetKeys.from_dek(
            DataKey.generate(), dataset="output.result", version=1, columns=["id", "fare", "tags", "total", "s"]
        )
        self.executors: dict[int, Any] = {}
        self.agents: list[Any] = []
        self.scratches: list[Path] = []

    def find(self, key_id: str) -> DataKey:
        return (self.output if key_id in self.output else self.released).key(key_id)

    def start(self) -> None:
        from strongroom.workload.spark.cluster import DriverSpark

        agent = self.agent()
        self.driver = DriverSpark(
            secret=self.secret,
            listen_host="127.0.0.1",
            agent_socket=agent.path,
            work_dir=agent.path.parent,
            app_name="tests",
            inputs=[self.inputs],
            outbox=self.outbox,
        )
        self.session = self.driver.start()
        self.add_executor(1)
        self.add_executor(2)
        self.driver.wait_executors(2, deadline=90)

    def agent(self) -> KeyAgent:
        from strongroom.workload.agent import KeyAgent
        from strongroom.workload.scratch import make_scratch

        scratch = make_scratch()
        agent = KeyAgent(self.find, directory=scratch)
        agent.start()
        self.scratches.append(scratch)
        self.agents.append(agent)
        return agent

    def add_executor(self, number: int, *, secret: bytes = b"") -> ExecutorProcess:
        from strongroom.workload.spark.cluster import ExecutorProcess

        agent = self.agent()
        executor = ExecutorProcess(
            secret=secret or self.secret,
            driver_url=self.driver.driver_url,
            executor_id=number,
            host="127.0.0.1",
            cores=1,
            memory="700m",
            app_id=self.driver.app_id,
            agent_socket=agent.path,
            work_dir=agent.path.parent,
            inputs=[self.inputs],
            outbox=self.outbox,
        )
        executor.start()
        self.executors[number] = executor
        return executor

    def publish(self, table: pa.Table, name: str) -> tuple[Path, Manifest]:
        """Encrypt ``table`` as the dataset trips@1 below the inputs, and sign its manifest."""
        from strongroom.envelope.table import describe_schema, write_table

        directory = self.inputs / name
        entries = write_table(table, directory, self.keys)
        return directory, self.sign(entries, describe_schema(table.schema), directory)

    def sign(self, entries: Sequence[FileEntry], schema: Sequence[Column], directory: Path) -> Manifest:
        from datetime import UTC, datetime

        from strongroom.envelope.manifest import sign_manifest, write_manifest

        manifest = sign_manifest(
            owner=self.owner,
            dataset="trips",
            version=1,
            kind="table",
            schema=schema,
            files=entries,
            custody="file:/nowhere",
            wrapped_key="none",
            created=datetime.now(UTC),
        )
        write_manifest(directory, manifest)
        return manifest

    def stop(self) -> None:
        if hasattr(self, "driver"):
            self.driver.stop()
        for executor in self.executors.values():
            executor.kill()
        for agent in self.agents:
            agent.close()
        for scratch in self.scratches:
            shutil.rmtree(scratch, ignore_errors=True)
