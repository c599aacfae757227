"""Start a Java machine that knows the cluster secret, can write nowhere but in its scratch directory, and dies with us.

The secret goes through its standard input. Neither its arguments, its environment nor a file ever hold it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

import strongroom
from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.agent import admit, dismiss
from strongroom.workload.confinement import confined_command
from strongroom.workload.scratch import filesystem_kind, is_memory
from strongroom.workload.spark.daemon import SCRATCH

SECRET_BYTES = 32
_JAR = Path(__file__).with_name("strongroom-spark.jar")
_MIN_JAVA = 17
_MEMORY = re.compile(r"^[1-9][0-9]{0,6}[kmg]$")
_GRACE = 5.0
# What org.apache.spark.launcher.JavaModuleOptions of 4.3.0 opens to Spark.
_OPENED = (
    "java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.util java.util.concurrent "
    "java.util.concurrent.atomic jdk.internal.ref sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar"
)
_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-modules=jdk.incubator.vector",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED.split()),
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-XX:+UseParallelGC",
    "-XX:-UsePerfData",  # /tmp/hsperfdata
    "-XX:+DisableAttachMechanism",
    "-XX:-CreateCoredumpOnCrash",
    "-XX:-HeapDumpOnOutOfMemoryError",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xshare:auto",
)
_NATIVE = ("org.xerial.snappy.tempdir", "ZstdTempFolder", "io.netty.native.workdir", "commons.crypto.lib.tempdir")
_FIRST = ("spark-core", "scala-library", "spark-sql_", "spark-catalyst", "hadoop-client-api", "spark-", "netty")
UNUSED_JARS = (
    *("kubernetes", "vertx", "zjsonpatch", "spark-kubernetes", "spark-yarn", "spark-hive", "spark-connect", "derby"),
    *("datanucleus", "javax.jdo", "jdo-", "bonecp", "HikariCP", "libthrift", "libfb303", "hive-beeline", "hive-cli"),
    *("hive-common", "hive-exec", "hive-jdbc", "hive-metastore", "hive-serde", "hive-service-rpc", "hive-shims"),
)


class JavaError(StrongroomError):
    """Java is missing, too old, or ended before it was ready."""


class Jvm:
    """One Java machine, started with the cluster secret in its standard input."""

    def __init__(
        self,
        main: str,
        *arguments: str,
        secret: bytes,
        host: str,
        heap: str,
        properties: Mapping[str, str],
        agent_socket: Path,
        scratch: Path,
        inputs: Iterable[Path],
        outbox: Path,
    ) -> None:
        verify_scratch(scratch)
        if len(secret) != SECRET_BYTES:
            raise UsageError(f"a cluster secret has {SECRET_BYTES} bytes, got {len(secret)}")
        if not _MEMORY.match(heap):
            raise UsageError(f"not an amount of memory: {heap!r}", hint="write it like 512m or 2g")
        self._secret = secret
        self._host = host
        self._scratch = scratch
        self._outbox = outbox
        walls = {
            "strongroom.scratch": str(scratch),
            "strongroom.outbox": str(outbox),
            "strongroom.inputs": os.pathsep.join(str(path) for path in inputs),
            "strongroom.agent.socket": str(agent_socket),
            # Native libraries are unpacked and loaded from where no Python worker may write.
            **dict.fromkeys(("java.io.tmpdir", *_NATIVE), str(scratch / "native")),
            "strongroom.shared": str(scratch / "tmp"),
        }
        self._command = [
            find_java(),
            *_OPTIONS,
            f"-Xmx{heap}",
            f"-XX:ErrorFile={scratch}/crash.log",
            *(f"-D{name}={value}" for name, value in {**walls, **properties}.items()),
            "-cp",
            class_path(),
            main,
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> IO[bytes]:
        """Start it, hand over the secret, and return the pipe of its standard output."""
        for name in ("tmp", "spark", "native", "warehouse"):
            (self._scratch / name).mkdir(mode=0o700, exist_ok=True)
        with (self._scratch / "java.log").open("ab") as log:
            self._process = process = subprocess.Popen(
                confined_command(self._command, writable=[self._scratch, self._outbox]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._scratch,
                env=environment(self._scratch, host=self._host),
                start_new_session=True,
            )
        assert process.stdin is not None  # noqa: S101  it was asked for above
        assert process.stdout is not None  # noqa: S101
        admit(process.pid)
        # The pipe stays open: its end tells the Java machine that this process is gone.
        process.stdin.write(self._secret.hex().encode() + b"\n")
        process.stdin.flush()
        self._secret = b""
        return process.stdout

    @property
    def pid(self) -> int:
        """Return the number of the running process, 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def command(self) -> Sequence[str]:
        """Return the command line; nothing in it is secret."""
        return tuple(self._command)

    def poll(self) -> int | None:
        """Return the exit code, or nothing while it runs."""
        return self._process.poll() if self._process else None

    def wait(self, seconds: float | None = None) -> int:
        """Wait for its end and return the exit code; raise JavaError after ``seconds``."""
        if self._process is None:
            raise UsageError("it was not started")
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise JavaError(f"Java did not end within {seconds:.0f} s") from error
        dismiss(self._process.pid)
        return code

    def stop(self) -> None:
        """Close its standard input, which ends it, and kill it if that takes too long; safe to call twice."""
        if self._process is None or self._process.poll() is not None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        dismiss(self._process.pid)

    def kill(self) -> None:
        """Kill it at once; safe to call twice."""
        if self._process is not None:
            dismiss(self._process.pid)
            self._process.kill()
            self._process.wait()

    def log(self, lines: int = 40) -> str:
        """Return the end of its log, which stays inside the TEE, since messages may quote data."""
        path = self._scratch / "java.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def verify_scratch(scratch: Path) -> None:
    """Raise UsageError unless ``scratch`` is a directory of mode 0700 on a memory file system."""
    if not scratch.is_dir() or scratch.stat().st_mode & 0o077:
        raise UsageError(f"{scratch} is not a private directory (mode 700)")
    if not is_memory(scratch):
        raise UsageError(
            f"Spark's local directory {scratch} is on {filesystem_kind(scratch)}, and must be in memory",
            hint="its spill encryption has no integrity; use a directory on a tmpfs, such as one below /dev/shm",
        )


def environment(scratch: Path, *, host: str) -> dict[str, str]:
    """Return the whole environment of a Java machine and its Python workers; nothing of ours is inherited.

    ``host`` is the address under which the others reach it.
    """
    package = Path(strongroom.__file__).resolve().parents[1]
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch / "tmp"),
        "SPARK_HOME": str(spark_home()),
        "SPARK_LOCAL_DIRS": str(scratch / "spark"),
        "SPARK_USER": "strongroom",
        # Spark would look for an address of its own, and ask a name service for that one's name; there may be none.
        "SPARK_LOCAL_IP": host,
        "SPARK_LOCAL_HOSTNAME": host,
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
        # A function may write to scratch; no Python that starts later may take a module from there.
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYSPARK_PYTHON": sys.executable,
        SCRATCH: str(scratch),
    }


@cache
def spark_home() -> Path:
    """Return where pyspark is installed."""
    import pyspark

    return Path(pyspark.__file__).resolve().parent


def class_path() -> str:
    """Return our jar, then those of Spark's that a job can need: no Kubernetes client, no Hive, no Thrift server."""
    if not _JAR.exists():
        raise JavaError(f"{_JAR} is missing", hint="build it with scripts/jar")
    jars = sorted(path for path in (spark_home() / "jars").glob("*.jar") if not path.name.startswith(UNUSED_JARS))
    jars.sort(key=_rank)
    return os.pathsep.join(str(path) for path in (_JAR, *jars))


def _rank(path: Path) -> int:
    """Return how early in the class path a jar belongs: Java looks for a class in one jar after the other."""
    return next((rank for rank, name in enumerate(_FIRST) if path.name.startswith(name)), len(_FIRST))


@cache
def find_java() -> str:
    """Return the path of a Java of version 17 or later: of JAVA_HOME, or else on the PATH."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin/java") if home else shutil.which("java")
    if not found or not os.access(found, os.X_OK):
        raise JavaError("found no java", hint="install OpenJDK 17 or later, for example openjdk-17-jre-headless")
    try:
        said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise JavaError(f"{found} does not run") from error
    version = re.search(r'version "(\d+)', said)
    if not version or int(version[1]) < _MIN_JAVA:
        raise JavaError(f"{found} is too old: {said.splitlines()[0]}", hint="Spark 4 needs Java 17 or later")
    return str(Path(found).resolve())
