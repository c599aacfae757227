"""Run SQL on the job's inputs inside one process: DuckDB over Arrow (docs/explanation/performance.md).

The engine sees the tables it was given and nothing else: no file, no network, no extension, no Python variable.
It never writes to disk, and what it says about a failed query never contains a value from the data.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from strongroom.envelope.footer import TamperedDataError
from strongroom.errors import RefusedError, StrongroomError, UsageError

Result = TypeVar("Result")

ROWS_PER_BATCH: Final = 122_880  # one DuckDB row group: the fewest, fullest batches it can hand over
LONGEST_QUERY: Final = timedelta(hours=1)
LONGEST_TEXT: Final = 1 << 20  # characters of one query

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # what may name a dataset; in SQL it may need "quotes"
_NOT_AUTHENTIC = re.compile(r"decrypt|AES|authentic", re.IGNORECASE)  # how Arrow reports a changed byte

# What a query may be made of, in the words of DuckDB's own parser. Whatever is not listed is refused, so that
# a construct that a later DuckDB adds is refused until somebody has thought about it.
_QUERY_NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_RELATIONS: Final = frozenset({"BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SUBQUERY", "TABLE_FUNCTION"})
_MODIFIERS: Final = frozenset({"ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"})
_DIRECTIONS: Final = frozenset({"ORDER_DEFAULT", "ASCENDING", "DESCENDING"})
_TABLE_FUNCTIONS: Final = frozenset({"generate_series", "json_each", "json_tree", "range", "unnest"})
# These would carry values into settings, logs or messages, or tell about the machine.
_WITHHELD_FUNCTIONS: Final = frozenset(
    {"current_setting", "currval", "error", "getenv", "getvariable", "nextval", "setseed", "write_log"}
)

_LOCKED_DOWN: Final = {
    "enable_external_access": "false",  # no file, no network, no ATTACH, no COPY, no INSTALL
    "temp_directory": "",  # nothing decrypted is spilled to disk
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",  # a query never finds the variables of the Python that runs it
}


class QueryRefusedError(RefusedError):
    """A query asks for more than reading its own tables."""


class QueryFailedError(StrongroomError):
    """A query was sound but could not be finished; the message never contains data."""


class QueryTimeoutError(QueryFailedError):
    """A query took longer than it was allowed to."""


class EmbeddedEngine:
    """A DuckDB that holds exactly ``tables`` and is locked before the first query.

    ``tables`` are datasets as ``envelope.table.open_table`` returns them; the columns of a dataset's schema are the
    columns that exist. ``memory_limit`` is in bytes and bounds DuckDB's own memory: a query that needs more fails,
    since spilling would write plaintext. One query runs at a time; the engine may be shared between threads.
    """

    def __init__(
        self,
        tables: Mapping[str, ds.Dataset],
        *,
        memory_limit: int | None = None,
        threads: int | None = None,
    ) -> None:
        _validate_tables(tables)
        self._tables = dict(tables)
        self._lock = threading.RLock()
        self._closed = False
        self._queries = 0  # counts queries, so that a stream notices that another query took its place
        limit = _memory_share() if memory_limit is None else memory_limit
        workers = len(os.sched_getaffinity(0)) if threads is None else threads
        if limit < 1 << 20 or workers < 1:
            raise UsageError(
                f"the embedded engine needs at least 1 MiB and 1 thread, got {limit} bytes and {workers} threads",
                hint="raise worker_memory or worker_cores of the job",
            )
        self._connection = _connect(limit, workers)
        self._parser = _connect(1 << 26, 1)  # holds no table: it only takes queries apart
        for name, dataset in self._tables.items():
            _register(self._connection, name, dataset)
        for connection in (self._connection, self._parser):
            connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
            connection.execute("SET lock_configuration = true")  # from here on, no setting can change

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the names of the tables, in the order given."""
        return tuple(self._tables)

    def table(self, name: str) -> ds.Dataset:
        """Return a table as a dataset, for pandas, Polars, scikit-learn and the like."""
        if name not in self._tables:
            raise UsageError(
                f"there is no table {name!r}; the inputs of this job are {sorted(self._tables)}",
                hint="name an input of the job",
            )
        return self._tables[name]

    def sql(self, text: str, *, limit: timedelta = LONGEST_QUERY) -> pa.Table:
        """Run one SELECT and return its rows."""
        with self._lock:
            self._bind(text)
            return _read(
                lambda: self._connection.execute(text).to_arrow_table(ROWS_PER_BATCH),
                connection=self._connection,
                limit=limit,
            )

    def stream(self, text: str, *, limit: timedelta = LONGEST_QUERY) -> pa.RecordBatchReader:
        """Run one SELECT and return its rows as they come; read them before the next query.

        ``limit`` bounds each batch. A stream that another query displaced raises, it never ends early.
        """
        with self._lock:
            self._bind(text)
            batches = _read(
                lambda: self._connection.execute(text).to_arrow_reader(ROWS_PER_BATCH),
                connection=self._connection,
                limit=limit,
            )
            return pa.RecordBatchReader.from_batches(batches.schema, self._pull(batches, self._queries, limit))

    def explain(self, text: str) -> str:
        """Return the plan of one SELECT without running it."""
        with self._lock:
            return str(self._bind(text).explain())

    def interrupt(self) -> None:
        """Stop the query that runs now, from any thread: a lease has ended."""
        self._connection.interrupt()

    def close(self) -> None:
        """Stop and let go of everything; closing twice is closing once."""
        if not self._closed:
            self.interrupt()
        with self._lock:
            self._closed = True
            self._queries += 1
            self._connection.close()
            self._parser.close()
            self._tables.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bind(self, text: str) -> duckdb.DuckDBPyRelation:
        """Validate a query and bind it to the tables; nothing is read yet, so messages may quote the query."""
        if self._closed:
            raise UsageError("the embedded engine was closed", hint="open another one; keys may have been withdrawn")
        if len(text) > LONGEST_TEXT:
            raise UsageError(f"a query has at most {LONGEST_TEXT} characters, got {len(text)}", hint="shorten it")
        try:
            [[tree]] = self._parser.execute("SELECT json_serialize_sql($1::VARCHAR)", [text]).fetchall()
            reasons = _refuse(json.loads(tree), frozenset(name.lower() for name in self._tables))
        except duckdb.Error as error:
            raise UsageError(f"the query cannot be parsed: {error}", hint="write one SELECT statement") from error
        except RecursionError as error:
            raise UsageError("the query is nested too deeply", hint="use WITH to name its parts") from error
        if reasons:
            raise QueryRefusedError(
                f"the query was refused: {'; '.join(reasons)}",
                reasons=reasons,
                hint=f"write one SELECT over {', '.join(sorted(self._tables))}",
            )
        self._queries += 1
        try:
            return self._connection.sql(text)
        except duckdb.Error as error:
            raise UsageError(f"the query does not fit its tables: {error}", hint=_columns_hint(self._tables)) from error

    def _pull(self, batches: pa.RecordBatchReader, query: int, limit: timedelta) -> Iterator[pa.RecordBatch]:
        while True:
            with self._lock:
                if self._queries != query:
                    raise UsageError(
                        "another query began before this stream was read to its end",
                        hint="read a stream fully, or use sql() for small results",
                    )
                batch = _read(lambda: next(batches, None), connection=self._connection, limit=limit)
            if batch is None:
                return
            yield batch


def _connect(memory_limit: int, threads: int) -> duckdb.DuckDBPyConnection:
    """Open a database that lives in memory only."""
    settings = _LOCKED_DOWN | {"memory_limit": f"{memory_limit >> 10}KiB", "threads": str(threads)}
    connection = duckdb.connect(":memory:", config=settings)
    connection.execute("SET enable_progress_bar = false")
    return connection


def _register(connection: duckdb.DuckDBPyConnection, name: str, dataset: ds.Dataset) -> None:
    """Let queries see a dataset under ``name``; raise UsageError if DuckDB has no type for one of its columns."""
    try:
        connection.register(name, dataset)
    except duckdb.Error as error:
        raise UsageError(
            f"table {name} has a column of a type that SQL cannot hold: {error}",
            hint="release other columns, or convert it before encrypting (decimals have at most 38 digits)",
        ) from error


def _memory_share() -> int:
    """Return six tenths of the memory this process may have; the rest is for Arrow and Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for bound in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(bound)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            memory = min(memory, int(text))
    return memory * 6 // 10


def _validate_tables(tables: Mapping[str, ds.Dataset]) -> None:
    """Raise unless every table and column can be named in SQL without a doubt which is meant."""
    seen: set[str] = set()
    for name, dataset in tables.items():
        if not _NAME.fullmatch(name) or name.lower() in seen:
            raise UsageError(
                f"{name!r} cannot name a table", hint="use letters, digits and . _ -, and do not differ in case alone"
            )
        if not isinstance(dataset, ds.Dataset):
            raise UsageError(
                f"table {name} must be a pyarrow dataset, got {type(dataset).__name__}",
                hint="open it with envelope.table.open_table",
            )
        seen.add(name.lower())
        columns = [column.lower() for column in dataset.schema.names]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise UsageError(
                f"table {name} has columns that differ in case alone: {', '.join(twice)}",
                hint="SQL cannot tell them apart; rename one before encrypting",
            )


def _columns_hint(tables: Mapping[str, ds.Dataset]) -> str:
    listed = (f"{name}({', '.join(dataset.schema.names)})" for name, dataset in tables.items())
    return f"this job may read {'; '.join(listed)}"


def _refuse(tree: Mapping[str, object], tables: frozenset[str]) -> tuple[str, ...]:
    """Return every reason against a query, given DuckDB's own parse of it."""
    if tree.get("error"):
        if tree.get("error_type") == "parser":
            raise UsageError(f"the query cannot be parsed: {tree.get('error_message')}", hint="write one SELECT")
        return ("only a SELECT may run",)
    statements = tree.get("statements")
    if not isinstance(statements, Sequence) or len(statements) != 1:
        return ("exactly one statement may run",)
    reasons: dict[str, None] = {}  # a set that keeps its order
    todo: list[tuple[object, frozenset[str]]] = [(statements[0], tables)]
    while todo:
        part, names = todo.pop()
        if isinstance(part, Mapping):
            names = names | _named_parts(part)
            reasons.update(dict.fromkeys(_refuse_part(part, names)))
            todo.extend((value, names) for value in reversed(list(part.values())))
        elif isinstance(part, list):
            todo.extend((value, names) for value in reversed(part))
    return tuple(reasons)


def _named_parts(part: Mapping[str, object]) -> frozenset[str]:
    """Return the names that WITH gives to parts of this query; they are tables inside it."""
    named = part.get("cte_map")
    entries = named.get("map") if isinstance(named, Mapping) else None
    if not isinstance(entries, list):
        return frozenset()
    return frozenset(str(entry["key"]).lower() for entry in entries)


def _refuse_part(part: Mapping[str, object], names: frozenset[str]) -> Iterator[str]:
    kind = part.get("type")
    if "class" in part:  # an expression
        function = str(part.get("function_name", "")).lower()
        if function in _WITHHELD_FUNCTIONS:
            yield f"the function {function} is withheld"
    elif not isinstance(kind, str):
        return
    elif kind == "BASE_TABLE":
        table = ".".join(str(part[key]) for key in ("catalog_name", "schema_name", "table_name") if part.get(key))
        if part.get("catalog_name") or part.get("schema_name") or table.lower() not in names:
            yield f"{table} is not a table of this job"
    elif kind == "TABLE_FUNCTION":
        call = part.get("function")
        name = str(call.get("function_name")).lower() if isinstance(call, Mapping) else "?"
        if name not in _TABLE_FUNCTIONS:
            yield f"the table function {name} is withheld"
    elif kind not in _QUERY_NODES | _RELATIONS | _MODIFIERS | _DIRECTIONS and not kind.endswith("_TYPE_INFO"):
        yield f"{kind.lower().replace('_', ' ')} is not part of a plain SELECT"


def _read(read: Callable[[], Result], *, connection: duckdb.DuckDBPyConnection, limit: timedelta) -> Result:
    """Return ``read()``, interrupted after ``limit``; if it fails, say which kind of failure, and quote nothing.

    DuckDB and Arrow quote the offending value ("could not convert string 'Alice'"), and an error leaves the TEE.
    The original is therefore not even chained: the error is raised only after the handlers are left.
    """
    late = threading.Event()
    authentic = True

    def stop() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(limit.total_seconds(), stop)
    timer.daemon = True
    timer.start()
    try:
        return read()
    except duckdb.OutOfMemoryException:
        failure = QueryFailedError(
            "the query needs more memory than this job has", hint="raise worker_memory, or aggregate earlier"
        )
    except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
        changed = isinstance(error, OSError) or "get_next failed" in str(error)
        if changed and _NOT_AUTHENTIC.search(str(error)):
            authentic = False
        kind = re.sub(r"(?<=.)(Exception|Error)$", "", type(error).__name__)
        failure = QueryFailedError(
            f"the query failed while reading data ({kind}); the value is withheld",
            hint="check casts, divisions and lengths; the same query on data of your own shows the full message",
        )
    finally:
        timer.cancel()
    if late.is_set():
        failure = QueryTimeoutError(
            f"the query took longer than {limit.total_seconds():g} s", hint="narrow it, or allow more time"
        )
    if not authentic:
        raise TamperedDataError(
            "an input is not what its owner encrypted: a part of it does not authenticate",
            hint="the storage changed a file after the dataset was opened; fetch the dataset again",
        )
    raise failure
