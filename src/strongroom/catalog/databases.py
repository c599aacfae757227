"""Hold the connection that writes the broker's store: SQLite in a directory, or PostgreSQL (spec/4-release.md §5.2).

The database is not trusted with anything but keeping what it is given. A lock keeps honest brokers apart, and every
commit names the head it follows, so that two of them never both write the next one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import sqlalchemy as sa

from strongroom.errors import StrongroomError, UsageError

FILE = "store.sqlite"
POSTGRES = "postgresql+psycopg://"
PATIENCE = 30.0
"""Seconds within which a server answers; longer than it may itself take for a statement."""
_CONNECT_SECONDS = 10
_STATEMENT_MILLISECONDS = 20_000
# A server whose machine is gone is noticed by these; one that is there and says nothing, by PATIENCE alone.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('strongroom/store/' || current_schema(), 0))"
_HINT = "name it as postgresql+psycopg://PARTY@HOST/DATABASE?passfile=FILE"


class StoreError(StrongroomError):
    """The broker's store cannot be used."""


class StoreInUseError(UsageError):
    """Another broker serves from this store."""


class Cursor(Protocol):
    """What writes inside a transaction; parameters are written ``?``."""

    @property
    def rowcount(self) -> int:
        """Return how many rows the last statement touched."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Any:  # noqa: ANN401  the driver's own
        """Run one statement."""

    def executemany(self, statement: str, values: Iterable[Sequence[Any]], /) -> Any:  # noqa: ANN401  the driver's own
        """Run one statement for each of ``values``."""


class Database(Protocol):
    """Where a store is kept: ``engine`` to read from, ``transaction`` to write in, ``name`` for messages."""

    name: str
    engine: sa.Engine

    def transaction(self) -> Any:  # noqa: ANN401  a context manager that lends a Cursor
        """Lend a cursor whose statements become durable together when the block ends well, or not at all."""

    def close(self) -> None:
        """Let go of the store."""


def open_database(place: str | Path) -> Database:
    """Open the database at ``place``: a directory, or ``postgresql+psycopg://...``.

    Raise StoreInUseError if another broker has it, UsageError if it cannot be reached, StoreError if it is not one.
    """
    if isinstance(place, Path) or "://" not in place:
        return SqliteDatabase.open(Path(place))
    return PostgresDatabase.open(place)


@contextmanager
def reading(place: str) -> Iterator[sa.Connection]:
    """Lend a connection to the database at ``place`` that sees it as it is at one moment and writes nothing.

    It takes no lock, so a broker may serve meanwhile. ``place`` is SQLAlchemy's address of a SQLite file, or a
    PostgreSQL address as :func:`open_database` takes it. Raise UsageError if it cannot be reached.
    """
    if not place.startswith(POSTGRES):
        engine = sa.create_engine(place)
        options: dict[str, Any] = {}
    else:
        engine = _connect(_parse_url(place))
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        try:
            connection = engine.connect().execution_options(**options)
        except sa.exc.OperationalError as error:
            raise UsageError(f"cannot reach the store: {_first_line(error)}", hint=_HINT) from error
        with connection:
            yield connection
    finally:
        engine.dispose()


def copy_sqlite(directory: Path, target: Path) -> None:
    """Copy the database in ``directory``, as it is at one moment, into the file ``target``; a broker may serve from it.

    Raise UsageError if there is none, StoreError if it cannot be read.
    """
    source = directory / FILE
    if not source.is_file():
        raise UsageError(f"there is no store in {directory}", hint="name the --store of a broker")
    try:
        with (
            closing(sqlite3.connect(f"file:{source.absolute()}?mode=ro", uri=True, timeout=10)) as read,
            closing(sqlite3.connect(target)) as written,
        ):
            read.backup(written)
            written.execute("PRAGMA journal_mode=DELETE")  # one file that needs no other beside it
    except sqlite3.Error as error:
        raise StoreError(
            f"cannot copy the store in {directory}: {error}", hint="is the disk full or damaged?"
        ) from error


class SqliteDatabase:
    """One file in a directory of its own, written ahead and synced at every commit."""

    def __init__(self, directory: Path, *, engine: sa.Engine, lock: Any) -> None:  # noqa: ANN401  a file
        self.name = str(directory)
        self.engine = engine
        self._lock = lock
        self._writer: sa.PoolProxiedConnection | None = None

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open or create the database in ``directory``; one process at a time."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (directory / "lock").open("w")
        except OSError as error:
            raise UsageError(
                f"cannot use {directory} as the store: {error.strerror}", hint="name a directory this process may write"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise StoreInUseError(
                f"another broker uses the store {directory}", hint="stop it first, or name another directory"
            ) from error
        engine = sa.create_engine(f"sqlite:///{directory / FILE}", connect_args={"timeout": 10})
        sa.event.listen(engine, "connect", _make_durable)
        return cls(directory, engine=engine, lock=lock)

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Lend a cursor of the connection that all commits share, whose few statements stay prepared."""
        if self._writer is None:
            self._writer = self.engine.raw_connection()
        cursor: Any = self._writer.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            self._writer.rollback()
            raise
        finally:
            cursor.close()

    def close(self) -> None:
        """Let go of the file and the lock."""
        if self._writer is not None:
            self._writer.close()
        self.engine.dispose()
        self._lock.close()


class PostgresDatabase:
    """A database of a PostgreSQL server; the connection that commits is the one that holds the lock.

    If that connection breaks, the lock is gone and the next commit fails: nothing here ever connects again. A server
    that does not answer within ``patience`` seconds counts as gone.
    """

    def __init__(self, name: str, *, engine: sa.Engine, writer: Any, held: sa.Connection) -> None:  # noqa: ANN401
        self.name = name
        self.engine = engine
        self._writer = writer  # psycopg's own connection
        self._held = held

    @classmethod
    def open(cls, place: str, *, patience: float = PATIENCE) -> Self:
        """Connect and take the lock of the schema; its password, if it has one, is in a file that ``place`` names."""
        url = _parse_url(place)
        engine = _connect(url, patience=patience)
        name = url.render_as_string(hide_password=True)
        try:
            connection = engine.connect()
            writer: Any = connection.connection.driver_connection
            connection.detach()  # The pool must never take this one back.
            writer.autocommit = True
            (free,) = writer.execute(_LOCK).fetchone()
        except sa.exc.OperationalError as error:
            engine.dispose()
            raise UsageError(f"cannot reach the store {name}: {_first_line(error)}", hint=_HINT) from error
        if not free:
            writer.close()
            engine.dispose()
            raise StoreInUseError(
                f"another broker uses the store {name}", hint="stop it first, or start this one with --standby"
            )
        return cls(name, engine=engine, writer=writer, held=connection)

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Lend a cursor of the connection that holds the lock."""
        with self._writer.transaction(), self._writer.cursor() as cursor:
            yield _PostgresCursor(cursor)

    def close(self) -> None:
        """Close every connection, and with the one that writes let go of the lock."""
        self._writer.close()
        self._held.close()
        self.engine.dispose()


def _connect_with(patience: float) -> Callable[..., Any]:
    """Return what connects for SQLAlchemy: a connection of psycopg's that gives up after ``patience`` seconds.

    psycopg waits for a server as long as its connection stands, which a stopped server or a proxy can keep for ever.
    """
    import psycopg
    from psycopg.errors import ConnectionTimeout

    def bound(steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        ends = time.monotonic() + patience
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted  # psycopg resumes it ten times a second, whether or not anything came
                if time.monotonic() > ends:
                    raise ConnectionTimeout(f"the server did not answer within {patience:g} s")
                wanted = steps.send(ready)
        except StopIteration as done:
            return done.value

    class PatientConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *arguments: Any, **settings: Any) -> Any:  # noqa: ANN401  psycopg's own
            try:
                return super().wait(bound(gen), *arguments, **settings)
            except ConnectionTimeout:
                self.pgconn.finish()  # What it was asked may still happen; nobody may take it for undone and go on.
                raise

    def connect(_dialect: object, _record: object, positional: Sequence[Any], named: dict[str, Any]) -> Any:  # noqa: ANN401
        return PatientConnection.connect(*positional, **named)

    return connect


class _PostgresCursor:
    """Writes parameters as psycopg wants them."""

    def __init__(self, cursor: Any) -> None:  # noqa: ANN401  psycopg's cursor
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        return int(self._cursor.rowcount)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> _PostgresCursor:
        self._cursor.execute(statement.replace("?", "%s"), values)
        return self

    def executemany(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        self._cursor.executemany(statement.replace("?", "%s"), list(values))

    def fetchone(self) -> Any:  # noqa: ANN401  a row
        return self._cursor.fetchone()


def _connect(url: sa.URL, *, patience: float = PATIENCE) -> sa.Engine:
    try:
        engine = sa.create_engine(
            url,
            pool_size=4,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": max(2, round(min(patience, _CONNECT_SECONDS))),
                **_KEEPALIVE,
                "options": f"-c synchronous_commit=on -c statement_timeout={_STATEMENT_MILLISECONDS}",
            },
        )
    except ImportError as error:
        raise UsageError("psycopg is missing", hint="install strongroom[postgres]") from error
    sa.event.listen(engine, "do_connect", _connect_with(patience))
    return engine


def _parse_url(place: str) -> sa.URL:
    try:
        url = sa.make_url(place)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UsageError("the store's address cannot be read", hint=_HINT) from error
    if url.drivername != POSTGRES.removesuffix("://"):
        raise UsageError(f"a store is a directory or a PostgreSQL database, got {url.drivername}", hint=_HINT)
    where = "the environment" if "PGPASSWORD" in os.environ else "the store's address"
    if url.password is not None or "password" in url.query or "PGPASSWORD" in os.environ:
        raise UsageError(
            f"{where} holds the database's password, which others on this machine could read",
            hint="put it into a file (man pgpass) and name that: ...?passfile=FILE",
        )
    return url


def _first_line(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _make_durable(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
