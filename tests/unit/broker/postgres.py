"""A real PostgreSQL server for tests: a cluster in a temporary directory, on loopback, run by nobody."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

REPOSITORY = Path(__file__).parents[3]
PARTY = "strongroom"


def find_programs() -> Path:
    """Return the folder of ``initdb``, which Debian keeps out of the path; install it if it is missing."""
    for attempt in range(2):
        found = [Path(named).resolve().parent for named in [shutil.which("initdb")] if named]
        found += sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if found:
            return found[-1]
        if not attempt:
            subprocess.run([REPOSITORY / "scripts" / "apt", "postgresql"], check=True, timeout=240)
    raise FileNotFoundError("initdb")


class Server:
    """One server with a password; each ``database`` is fresh."""

    def __init__(self) -> None:
        self.programs = find_programs()
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.data = self.directory / "data"
        self.passfile = self.directory / "passfile"
        self._as = {}
        if os.getuid() == 0:  # PostgreSQL refuses to run as root.
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        password = secrets.token_hex(16)
        first = self.directory / "first"
        first.write_text(password)
        first.chmod(0o644)
        self._run("initdb", "--auth=scram-sha-256", f"--pwfile={first}", "-U", PARTY, "-E", "UTF8", "--locale=C", "-N")
        first.unlink()
        self.passfile.write_text(f"127.0.0.1:{self.port}:*:{PARTY}:{password}\n")
        self.passfile.chmod(0o600)
        self._start()

    def _start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", self.data, *(f"--{key}={value}" for key, value in settings.items())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
            **self._as,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                self.connect("postgres").close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise TimeoutError("PostgreSQL did not start")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # ends it at once; nobody will open these files again
        self.process.wait(timeout=30)
        shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=PARTY,
            dbname=database,
            passfile=str(self.passfile),
            connect_timeout=10,
            autocommit=True,
        )

    def database(self, *, like: str = "template0") -> str:
        """Make a database, an empty one unless it is to be ``like`` another, and return its name."""
        name = f"store_{secrets.token_hex(4)}"
        self.query("postgres", f"CREATE DATABASE {name} TEMPLATE {like}")
        return name

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{PARTY}@127.0.0.1:{self.port}/{database}?passfile={self.passfile}"

    def query(self, database: str, statement: str, values: tuple[object, ...] = ()) -> list[tuple]:
        with self.connect(database) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]

    def copy(self, database: str, *, idle: bool = False) -> str:
        """Return the name of a copy, taken as a host can: while others use the original, unless it is ``idle``."""
        if idle:
            return self.database(like=database)
        name = self.database()
        dump = self._run("pg_dump", "--dbname", self._named(database), capture=True)
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", self._named(name), feed=dump)
        return name

    def _named(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={PARTY} dbname={database} passfile={self.passfile}"

    def _run(self, program: str, *arguments: str, capture: bool = False, feed: bytes | None = None) -> bytes:
        own = {} if capture or feed is not None else self._as
        more = ["-D", str(self.data)] if program == "initdb" else []
        done = subprocess.run(
            [self.programs / program, *more, *arguments],
            check=False,
            input=feed,
            capture_output=True,
            cwd="/",
            timeout=120,
            **own,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode()[-2000:]}")
        return done.stdout
