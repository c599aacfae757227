"""Hold a SQL query to the fused policy, and return the query that may run (spec/2-policy.md §6).

What runs is never the analyst's text: it is written anew from the checked syntax tree, with every name resolved. A
query that cannot be shown to keep the policy is refused, with every reason.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence, Set

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope

from strongroom.errors import PolicyError
from strongroom.policy.fusion import FusedPolicy
from strongroom.policy.grouping import Floors, hold_groups
from strongroom.policy.vocabulary import find_foreign

MAX_QUERY_CHARACTERS = 1 << 18
MAX_NESTING = 100
RESERVED = "__strongroom"
DIALECTS = ("duckdb", "spark")


class QueryError(PolicyError):
    """A query does not keep the fused policy, or cannot be shown to; ``reasons`` holds everything against it."""

    def __init__(self, reasons: Sequence[str]) -> None:
        distinct = tuple(dict.fromkeys(reasons))
        lines = "".join(f"\n  {number}. {reason}" for number, reason in enumerate(distinct, start=1))
        super().__init__(
            f"the query is refused for {len(distinct)} reason{'s' if len(distinct) != 1 else ''}:{lines}",
            hint="change the query, or ask every owner to approve it as a program",
        )
        self.reasons = distinct


def check_sql(text: str, fused: FusedPolicy, tables: Mapping[str, Sequence[str]], *, dialect: str = "duckdb") -> str:
    """Return the query to run instead of ``text``; raise QueryError listing every reason against it.

    ``tables`` maps each input's name to the columns whose keys were released. Where the fused minimum group is larger
    than 1, only aggregates pass, and groups that are too small are dropped from the result by the returned query.
    """
    query = _parse(text, dialect)
    try:
        return _write(_check(query, fused, tables, dialect=dialect), dialect)
    except (SqlglotError, RecursionError) as error:
        raise _unresolved(error) from error


def check_draft(text: str, tables: Mapping[str, Sequence[str]], *, dialect: str = "duckdb") -> None:
    """Raise QueryError with every reason for which no policy whatsoever could let the query run.

    ``tables`` maps each input's name to the columns that the job asks for; where one asks for all (``*``), columns are
    not looked at. What passes may still be refused by the policies, which are known only inside.
    """
    query = _parse(text, dialect)
    try:
        reasons = list(_judge_draft(query, tables, dialect=dialect))
    except (SqlglotError, RecursionError) as error:
        raise _unresolved(error) from error
    if reasons:
        raise QueryError(reasons)


def _judge_draft(query: exp.Query, tables: Mapping[str, Sequence[str]], *, dialect: str) -> Iterator[str]:
    asked = {name.casefold(): {column.casefold(): column for column in columns} for name, columns in tables.items()}
    reasons = [*find_foreign(query, dialect=dialect), *_judge_names(query, asked)]
    yield from reasons
    if not reasons and not any("*" in columns for columns in asked.values()):
        yield from _judge_columns(_resolve(query, asked, dialect=dialect, stars=False), asked, asked)


def _unresolved(error: Exception) -> QueryError:
    said = str(error).splitlines()
    return QueryError([f"the names in the query cannot be resolved: {said[0][:200] if said else ''}"])


def _check(query: exp.Query, fused: FusedPolicy, tables: Mapping[str, Sequence[str]], *, dialect: str) -> exp.Query:
    """Return the resolved and rewritten query; raise QueryError listing every reason against it."""
    asked = {name.casefold(): {column.casefold(): column for column in columns} for name, columns in tables.items()}
    known = {
        name.casefold(): {column.casefold(): column for column in columns if fused.permits_column(name, column)}
        for name, columns in tables.items()
    }
    strangers = sorted(name for name in known if name not in fused.datasets)
    reasons = [f"no policy covers input {name!r}, so nothing may be read from it" for name in strangers]
    reasons += [*find_foreign(query, dialect=dialect), *_judge_names(query, known)]
    if reasons:
        raise QueryError(reasons)
    # First every name against all columns, so that what is withheld is called that; then, with stars expanded, against
    # the permitted ones only.
    resolved = _resolve(query, asked, dialect=dialect, stars=False)
    reasons = list(_judge_columns(resolved, asked, known))
    if not reasons:
        resolved = _resolve(query, known, dialect=dialect, stars=True)
        reasons = [
            *find_foreign(resolved, dialect=dialect),
            *_judge_columns(resolved, asked, known),
            *_judge_stars(resolved),
        ]
    if fused.minimum_group.size > 1:
        reasons += hold_groups(resolved, Floors.of(fused, known), dialect=dialect)
    if reasons:
        raise QueryError(reasons)
    _restore_names(resolved, _spellings(query, tables))
    return resolved


def _parse(text: str, dialect: str) -> exp.Query:
    """Return the syntax tree of exactly one query."""
    if dialect not in DIALECTS:
        raise QueryError([f"the SQL dialect is {dialect!r}, must be one of {', '.join(DIALECTS)}"])
    if len(text) > MAX_QUERY_CHARACTERS:
        raise QueryError([f"the query has {len(text)} characters, must have at most {MAX_QUERY_CHARACTERS}"])
    depth = max(_depths(text), default=0)
    if depth > MAX_NESTING:
        raise QueryError([f"the query nests {depth} parentheses, must nest at most {MAX_NESTING}"])
    try:
        statements = [statement for statement in sqlglot.parse(text, read=dialect) if statement is not None]
    except (SqlglotError, RecursionError, ValueError) as error:
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
        raise QueryError(
            [f"the query cannot be read as SQL: {said[0][:200] if said else type(error).__name__}"]
        ) from error
    if len(statements) != 1:
        raise QueryError([f"the program has {len(statements)} statements, must be one SELECT"])
    (query,) = statements
    if not isinstance(query, exp.Select | exp.SetOperation):
        if isinstance(query, exp.Condition | exp.Alias):  # such as a SELECT whose first word is misspelt
            raise QueryError(["the program is an expression and no statement, must be one SELECT"])
        raise QueryError([f"the program is a {query.key.upper()} statement, must be one SELECT"])
    return query


def _depths(text: str) -> Iterator[int]:
    """Yield how deep each opening parenthesis may be; those within strings count too, which errs on the safe side."""
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            yield depth
        elif character in ")]}":
            depth -= 1


def _judge_names(query: exp.Query, known: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Rule on the names of tables and on names that the query gives."""
    for cte in query.find_all(exp.CTE):
        if cte.alias.casefold() in known:
            yield f"WITH gives the name {cte.alias!r}, which is an input's; give it another"
    for identifier in query.find_all(exp.Identifier):
        if identifier.name.casefold().startswith(RESERVED):
            yield f"the name {identifier.name!r} begins with {RESERVED}, which is reserved"
    named = {cte.alias.casefold() for cte in query.find_all(exp.CTE)}
    for table in query.find_all(exp.Table):
        if table.name and table.name.casefold() not in known and table.name.casefold() not in named:
            inputs = ", ".join(sorted(known)) or "(none)"
            yield f"table {table.name!r} is not an input of the job, must be one of {inputs}"


def _resolve(query: exp.Query, columns: Mapping[str, Mapping[str, str]], *, dialect: str, stars: bool) -> exp.Query:
    """Return the query with every name resolved against ``columns`` and, if ``stars``, every star expanded to them."""
    schema = {name: dict.fromkeys(of_table, "UNKNOWN") for name, of_table in columns.items()}
    resolved: exp.Query = qualify(
        query.copy(), dialect=dialect, schema=schema, expand_stars=stars, validate_qualify_columns=False
    )
    return resolved


def _judge_stars(query: exp.Query) -> Iterator[str]:
    for star in query.find_all(exp.Star):
        if not isinstance(star.parent, exp.Count):
            yield "a * cannot be resolved to columns; name the columns"


def _judge_columns(
    query: exp.Query, asked: Mapping[str, Mapping[str, str]], known: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Rule on every column: it belongs to a source in sight, and a table's columns are permitted ones."""
    withheld = {name: columns.keys() - known[name].keys() for name, columns in asked.items()}
    scopes = traverse_scope(query)
    judged: set[int] = set()
    for scope in scopes:
        for column in scope.columns:
            judged.add(id(column))
            if not isinstance(column.this, exp.Star):
                yield from _judge_column(column, scope, known, withheld)
    followed = {id(scope.expression) for scope in scopes}
    if any(id(part) not in followed for part in query.find_all(exp.Select, exp.SetOperation)):
        yield "a subquery stands where it cannot be followed"
    names = {name for columns in asked.values() for name in columns}
    for column in query.find_all(exp.Column):
        if isinstance(column.this, exp.Star) or id(column) in judged:
            continue
        if not _names_a_result(column, names):
            yield f"{column.name!r} in ORDER BY may be a column or a result; order by the result's name alone"


def _judge_column(
    column: exp.Column, scope: Scope, known: Mapping[str, Mapping[str, str]], withheld: Mapping[str, Set[str]]
) -> Iterator[str]:
    if not column.table:
        if not _names_a_result(column, ()):
            owners = sorted(name for name, columns in withheld.items() if column.name.casefold() in columns)
            if owners:
                yield f"column {column.name!r} of {' and '.join(owners)} is withheld or not allowed by its owner"
            else:
                yield f"column {column.name!r} is not among the columns that the job asks for, or in several tables"
        return
    source = _find_source(scope, column.table)
    if source is None:
        yield f"column {column.sql()} belongs to no table in sight"
    elif isinstance(source, Scope):
        if column.name not in source.expression.named_selects:
            yield f"column {column.name!r} is not a result of {column.table!r}"
    elif column.name.casefold() in withheld.get(source.name.casefold(), ()):
        yield f"column {column.name!r} of {source.name} is withheld or not allowed by its owner"
    elif column.name.casefold() not in known.get(source.name.casefold(), ()):
        yield f"column {column.name!r} is not among the columns of {source.name} that the job asks for"


def _names_a_result(column: exp.Column, columns: Container[str]) -> bool:
    """Return whether an unqualified name in ORDER BY stands for one of the query's own results, beyond doubt.

    Alone it does. Within an expression, engines differ, so there it must not be the name of a column as well.
    """
    ordering = column.find_ancestor(exp.Order, exp.Query)
    query = column.find_ancestor(exp.Query)
    if column.table or query is None or not isinstance(ordering, exp.Order) or column.name not in query.named_selects:
        return False
    return isinstance(column.parent, exp.Ordered) or column.name not in columns


def _find_source(scope: Scope, alias: str) -> exp.Table | Scope | None:
    """Return what an alias stands for, looking outwards as SQL does."""
    here: Scope | None = scope
    while here is not None:
        if alias in here.sources:
            found: exp.Table | Scope = here.sources[alias]
            return found
        here = here.parent
    return None


def _spellings(query: exp.Query, tables: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return how the query's own results, or else the columns, are spelled; resolving lower-cases them."""
    spelled = {column.casefold(): column for columns in tables.values() for column in columns}
    for projection in query.selects:
        name = projection.alias_or_name
        if name and name != "*":
            spelled[name.casefold()] = name
    return spelled


def _restore_names(query: exp.Query, spelled: Mapping[str, str]) -> None:
    """Give the results the names that the analyst wrote, and a plain one to each that has none."""
    for number, projection in enumerate(query.selects):
        if isinstance(projection, exp.Alias):
            name = spelled.get(projection.alias, projection.alias)
            projection.set("alias", exp.to_identifier(f"_col_{number}" if name == "*" else name, quoted=True))


def _write(query: exp.Query, dialect: str) -> str:
    """Return the query as text, and make sure that the text reads as what was checked."""
    try:
        text: str = query.sql(dialect=dialect, comments=False, identify=True)
        (again,) = sqlglot.parse(text, read=dialect)
    except (SqlglotError, RecursionError, ValueError) as error:
        raise QueryError(["the checked query cannot be written in this dialect"]) from error
    if not isinstance(again, exp.Query):
        raise QueryError(["the checked query does not read as one SELECT"])
    reasons = list(find_foreign(again, dialect=dialect))
    if reasons:
        raise QueryError(reasons)
    return text
