"""Run Spark between attested processes: the scheduler in the driver, one executor per worker, and no daemon in between.

Whoever knows the cluster secret is in; nobody else gets one answer. The driver gives the secret to workers that it
attested, and to its own Java machine through a pipe (docs/decisions/0020).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.spark.jvm import JavaError, Jvm
from strongroom.workload.spark.settings import (
    BOOTSTRAP,
    PROTECTIONS,
    compose_allocation,
    compose_settings,
    verify_spark_conf,
)
from strongroom.workload.spark.tables import read_encrypted, write_encrypted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from strongroom.envelope.manifest import Manifest

_START = 90.0
_MAX_HELLO = 256


class ClusterError(StrongroomError):
    """The Spark cluster did not come up, or is not protected."""


class DriverSpark:
    """The driver's side of a cluster: its Java machine with the scheduler, and the session."""

    def __init__(
        self,
        *,
        secret: bytes,
        listen_host: str,
        agent_socket: Path,
        work_dir: Path,
        app_name: str,
        inputs: Iterable[Path],
        outbox: Path,
        memory: str = "1g",
        cores: int = 1,
        workers: int = 1,
        most_workers: int = 1,
        on_word: Callable[[str, int], None] = lambda _word, _number: None,
        conf: Mapping[str, str] | None = None,
    ) -> None:
        self._secret = secret
        self._on_word = on_word
        self._settings = {
            **compose_settings(app_name=app_name, host=listen_host, scratch=work_dir, tuning=conf or {}),
            **compose_allocation(cores=cores, workers=workers, most_workers=most_workers),
        }
        self._jvm = Jvm(
            "strongroom.spark.DriverMain",
            secret=secret,
            host=listen_host,
            heap=memory,
            properties={},
            agent_socket=agent_socket,
            scratch=work_dir,
            inputs=inputs,
            outbox=outbox,
        )
        self._session: SparkSession | None = None

    def start(self) -> SparkSession:
        """Start Java and the scheduler; return the session once it is proven to be protected.

        Raises ClusterError or JavaError if it does not come up in time, SparkSettingsError if a protection is missing.
        """
        from pyspark import SparkConf, SparkContext
        from pyspark.sql import SparkSession

        gateway = _connect_gateway(*_read_hello(self._jvm, self._on_word))
        try:
            jconf = gateway.jvm.SparkConf(False)
            settings = SparkConf(_jconf=jconf).setAll(list(self._settings.items()))
            context = SparkContext(gateway=gateway, conf=settings)
            context.pythonExec = _python()
            self._session = SparkSession(context)
            self._verify(context)
        except BaseException:
            self.stop()
            raise
        self._secret = b""
        return self._session

    def _verify(self, context: Any) -> None:  # noqa: ANN401  pyspark is not typed here
        verify_spark_conf(dict(context.getConf().getAll()), secret=self._secret)
        if not context._jvm.strongroom.spark.ClusterSecret.inUse():
            raise ClusterError("Spark does not authenticate with the cluster secret")

    @property
    def session(self) -> SparkSession:
        """Return the session; raise UsageError before the start and after the end."""
        if self._session is None:
            raise UsageError("Spark is not running")
        return self._session

    @property
    def driver_url(self) -> str:
        """Return where executors connect."""
        conf = self.session.sparkContext.getConf()
        return f"spark://CoarseGrainedScheduler@{conf.get('spark.driver.host')}:{conf.get('spark.driver.port')}"

    @property
    def app_id(self) -> str:
        """Return the application's id, which executors name when they join."""
        return str(self.session.sparkContext.applicationId)

    def executors(self) -> tuple[str, ...]:
        """Return the ids of the executors that are registered now."""
        backend = self.session.sparkContext._jsc.sc().schedulerBackend()
        found = backend.getExecutorIds()
        return tuple(sorted(str(found.apply(index)) for index in range(found.size())))

    def forget_executor(self, number: int) -> None:
        """Tell Spark that the worker with this executor is gone, so that it need not find out by waiting."""
        session = self._session
        if session is None:
            return
        with contextlib.suppress(Exception):  # Spark is stopping, and forgets it anyway
            session.sparkContext._jsc.sc().schedulerBackend().forget(str(number))

    def wait_executors(self, count: int, *, deadline: float) -> None:
        """Wait until ``count`` executors have joined; raise ClusterError after ``deadline`` seconds."""
        end = time.monotonic() + deadline
        while len(self.executors()) < count:
            if self._jvm.poll() is not None:
                raise ClusterError("Spark's scheduler ended")
            if time.monotonic() > end:
                raise ClusterError(
                    f"{len(self.executors())} of {count} executors joined within {deadline:.0f} s",
                    hint="did every worker start, and was it admitted?",
                )
            time.sleep(0.05)

    def read_encrypted(self, manifest: Manifest, location: Path, columns: Iterable[str]) -> DataFrame:
        """Return ``columns`` of the dataset at ``location`` as a DataFrame over the manifest's files and no other."""
        return read_encrypted(self.session, manifest, location, columns)

    def write_encrypted(self, frame: DataFrame, directory: Path, *, dataset: str, version: int) -> None:
        """Write ``frame`` below the outbox, every column under its own key of ``dataset`` and ``version``."""
        write_encrypted(frame, directory, dataset=dataset, version=version)

    def log(self) -> str:
        """Return the end of the Java machine's log; it may quote data, and stays inside the TEE."""
        return self._jvm.log()

    @property
    def pid(self) -> int:
        """Return the process number of the Java machine."""
        return self._jvm.pid

    def stop(self) -> None:
        """Stop the session and its Java machine; safe to call twice."""
        from pyspark import SparkContext

        session, self._session = self._session, None
        watchdog = threading.Timer(20.0, self._jvm.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            if session is not None:
                session.stop()
            gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
            if gateway is not None:
                gateway.shutdown()
        except Exception:  # noqa: BLE001, S110  it is ending one way or the other
            pass
        finally:
            watchdog.cancel()
            self._jvm.stop()


class ExecutorProcess:
    """A worker's side of a cluster: one Java machine that runs one executor."""

    def __init__(
        self,
        *,
        secret: bytes,
        driver_url: str,
        executor_id: int,
        host: str,
        cores: int,
        memory: str,
        app_id: str,
        agent_socket: Path,
        work_dir: Path,
        inputs: Iterable[Path],
        outbox: Path,
    ) -> None:
        if executor_id < 0 or cores < 1:
            raise UsageError(f"an executor has a number and at least one core, got {executor_id} and {cores}")
        arguments = {
            "--driver-url": driver_url,
            "--executor-id": str(executor_id),
            "--bind-address": host,
            "--hostname": host,
            "--cores": str(cores),
            "--app-id": app_id,
            "--resourceProfileId": "0",
        }
        self._jvm = Jvm(
            "strongroom.spark.ExecutorMain",
            *(part for pair in arguments.items() for part in pair),
            secret=secret,
            host=host,
            heap=memory,
            properties={name: PROTECTIONS[name] for name in sorted(BOOTSTRAP)},
            agent_socket=agent_socket,
            scratch=work_dir,
            inputs=inputs,
            outbox=outbox,
        )

    def start(self) -> None:
        """Start it; it joins the driver by itself."""
        output = self._jvm.start()
        threading.Thread(target=_drain, args=(output,), daemon=True, name="executor-output").start()

    @property
    def pid(self) -> int:
        """Return the process number of the Java machine."""
        return self._jvm.pid

    @property
    def command(self) -> tuple[str, ...]:
        """Return the Java command line; nothing in it is secret."""
        return tuple(self._jvm.command)

    def poll(self) -> int | None:
        """Return the exit code, or nothing while it runs."""
        return self._jvm.poll()

    def wait(self, seconds: float | None = None) -> int:
        """Wait for its end and return the exit code; raise JavaError after ``seconds``."""
        return self._jvm.wait(seconds)

    def leave(self) -> None:
        """Have Spark decommission it: it ends by itself when its tasks are done and its blocks are with others."""
        if self._jvm.poll() is None and self._jvm.pid:
            os.kill(self._jvm.pid, signal.SIGPWR)

    def kill(self) -> None:
        """Kill it at once; safe to call twice."""
        self._jvm.kill()

    def log(self) -> str:
        """Return the end of its log; it may quote data, and stays inside the TEE."""
        return self._jvm.log()


def _read_hello(jvm: Jvm, on_word: Callable[[str, int], None]) -> tuple[int, str]:
    """Start ``jvm`` and return the port and the token of its gateway; pass on what its scheduler says later."""
    output = jvm.start()
    end = time.monotonic() + _START
    hello = b""
    try:
        while not hello.endswith(b"\n"):
            left = end - time.monotonic()
            ready, _, _ = select.select([output], [], [], max(0.0, left))
            part = os.read(output.fileno(), _MAX_HELLO) if ready else b""
            hello += part
            if not part or len(hello) > _MAX_HELLO:
                break
    finally:
        if not hello.endswith(b"\n"):
            jvm.kill()
    if not hello.endswith(b"\n"):
        raise JavaError(f"the driver's Java did not come up (exit code {jvm.poll()}, at most {_START:.0f} s)")
    threading.Thread(target=_hear, args=(output, on_word), daemon=True, name="driver-output").start()
    port, _, token = hello.decode("ascii").strip().partition(" ")
    return int(port), token


def _connect_gateway(port: int, token: str) -> Any:  # noqa: ANN401  py4j is not typed
    """Return pyspark's gateway to a Java machine that listens at ``port`` on loopback."""
    from py4j.clientserver import ClientServer, JavaParameters, PythonParameters
    from py4j.java_gateway import java_import

    gateway = ClientServer(
        java_parameters=JavaParameters(port=port, auth_token=token, auto_convert=True),
        python_parameters=PythonParameters(port=0, eager_load=False),
    )
    gateway.proc = None
    # The names that pyspark.java_gateway.launch_gateway imports.
    for name in (
        "SparkConf",
        "api.java.*",
        "api.python.*",
        "ml.python.*",
        "mllib.api.python.*",
        "resource.*",
        "sql.Encoders",
        "sql.OnSuccessCall",
        "sql.functions",
        "sql.classic.*",
        "sql.api.python.*",
        "sql.hive.*",
    ):
        java_import(gateway.jvm, f"org.apache.spark.{name}")
    java_import(gateway.jvm, "scala.Tuple2")
    return gateway


def _hear(output: IO[bytes], on_word: Callable[[str, int], None]) -> None:
    """Pass on what the scheduler says, a word and a number a line."""
    with output:
        while line := output.readline(_MAX_HELLO):
            word, _, number = line.decode("ascii", "replace").strip().partition(" ")
            if number.isdecimal():
                on_word(word, int(number))


def _drain(output: IO[bytes]) -> None:
    """Read and forget what Java prints; a full pipe would stop it."""
    with output:
        while output.read(65536):
            pass


def _python() -> str:
    import sys

    return sys.executable
