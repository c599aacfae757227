"""A function of the analyst's, running in a Python worker beside an executor, goes after the executor's keys."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import sys

import pytest

from strongroom.workload.confinement import landlock_abi

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def on_workers(spark_room, function) -> set:
    return set(spark_room.session.sparkContext.parallelize(range(4), 4).map(function).collect())


def test_a_function_gets_no_key_from_the_agent(spark_room):
    sockets = [str(agent.path) for agent in spark_room.agents]

    def ask(_):
        said = []
        for path in sockets:
            with socket.socket(socket.AF_UNIX) as agent:
                agent.connect(path)
                agent.sendall(b"KEY trips@1/column/fare\n")
                said.append(agent.recv(4096).decode())
        return "".join(sorted(set(said)))

    assert on_workers(spark_room, ask) == {"NO this process may not ask for keys\n"}


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_a_function_cannot_read_the_memory_of_java(spark_room):
    targets = [executor.pid for executor in spark_room.executors.values()] + [spark_room.driver.pid, os.getpid()]

    def peek(_):
        said = []
        for pid in targets:
            for name in ("mem", "fd/0", "root"):
                try:
                    with pathlib.Path(f"/proc/{pid}/{name}").open("rb") as stream:
                        said.append("something" if stream.read(1) else "nothing")
                except OSError as error:
                    said.append(type(error).__name__)
        return ",".join(sorted(set(said)))

    words = {word for said in on_workers(spark_room, peek) for word in said.split(",")}
    assert words <= {"PermissionError", "OSError", "nothing"}


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel's Landlock does not scope signals")
def test_a_function_cannot_signal_java(spark_room):
    target = spark_room.driver.pid

    def shoot(_):
        try:
            os.kill(target, signal.SIGTERM)
        except PermissionError:
            return "refused"
        return "sent"

    assert on_workers(spark_room, shoot) == {"refused"}


def test_a_function_inherits_no_secret_and_no_open_file_of_java(spark_room):
    def look(_):
        files = {
            name: os.path.realpath(f"/proc/self/fd/{name}")
            for name in (path.name for path in pathlib.Path("/proc/self/fd").iterdir())
        }
        return repr((sorted(os.environ), sorted(files.values())))

    for said in on_workers(spark_room, look):
        assert spark_room.secret.hex() not in said
        assert "keys.sock" not in said
        assert "_SPARK_AUTH_SECRET" not in said


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_a_function_cannot_change_code_that_java_or_a_later_python_loads(spark_room):
    spark_room.session.range(1000).repartition(4).count()  # makes Java unpack its native libraries

    def plant(_):
        scratch = pathlib.Path(os.environ["STRONGROOM_SCRATCH"])
        libraries = list(scratch.rglob("*.so"))
        said = [] if libraries else ["no library"]
        targets = [
            *libraries,
            scratch / "native/x.so",
            scratch / "json.py",
            scratch / ".local/x.pth",
            scratch / "java.log",
        ]
        for target in targets:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("ab"):
                    said.append(f"opened {target}")
            except PermissionError:
                said.append("refused")
        return ",".join(sorted(set(said)))

    assert on_workers(spark_room, plant) == {"refused"}


def test_python_workers_take_no_module_from_scratch(spark_room):
    def look(_):
        scratch = os.environ["STRONGROOM_SCRATCH"]
        return (
            sys.flags.safe_path,
            bool(sys.flags.no_user_site),
            str(pathlib.Path.cwd()) in sys.path,
            scratch in sys.path,
        )

    assert on_workers(spark_room, look) == {(True, True, False, False)}
