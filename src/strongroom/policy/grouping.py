"""Make sure that behind every row of a SQL result stands a minimum group (spec/2-policy.md §6.3).

Every SELECT that aggregates rows of inputs gets a HAVING that drops small groups; whatever would show single rows, or
pick them out within a group, is refused. This bounds one answer; it does not bound what many overlapping ones tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from strongroom.policy.arguments import guard_aggregate, judge_aggregate
from strongroom.policy.fusion import DatasetRules, FusedPolicy
from strongroom.policy.lineage import Lineage

ROW = "__strongroom_row"
_KEY = "__strongroom_key"
# Numbers that tell the rows of one scan apart; nothing else about them matters.
_ROW_NUMBER = {"duckdb": "ROW_NUMBER() OVER ()", "spark": "MONOTONICALLY_INCREASING_ID()"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """The fused minimum group ``size``, each dataset's rules, and the columns of each table that may be read."""

    size: int
    rules: Mapping[str, DatasetRules]
    columns: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, fused: FusedPolicy, columns: Mapping[str, Mapping[str, str]]) -> Self:
        """Return the floors of a fused policy over ``columns`` (by table, then by column as engines compare it)."""
        rules = {rule.dataset.casefold(): rule for rule in fused.rules}
        return cls(size=fused.minimum_group.size, rules=rules, columns=columns)


def hold_groups(query: exp.Query, floors: Floors, *, dialect: str) -> list[str]:
    """Rewrite the resolved ``query`` so that small groups are dropped, or return every reason why that cannot be."""
    scopes = traverse_scope(query)
    lineage = Lineage(scopes)
    reasons = [reason for scope in scopes for reason in _judge_scope(scope, lineage, floors)]
    if not reasons:
        _Rewriter(lineage, floors, dialect=dialect).rewrite(scopes)
        _soften_casts(query)
    return reasons


def _judge_scope(scope: Scope, lineage: Lineage, floors: Floors) -> Iterator[str]:
    select = scope.expression
    if not isinstance(select, exp.Select):
        yield f"{select.key.upper()} puts results together; with a minimum group of {floors.size}, use one SELECT"
        return
    outer = sorted({column.name for column in scope.external_columns if column.table})
    if outer:
        yield f"a subquery refers to {', '.join(outer)} outside of it; write it as a join"
    if select.args.get("limit") and not select.args.get("order"):
        yield "LIMIT without ORDER BY returns whatever comes first; add ORDER BY"
    for join in select.args.get("joins") or ():
        if str(join.args.get("kind") or "").upper() in {"SEMI", "ANTI"}:
            yield "SEMI and ANTI JOIN tell of rows that no group counts; write JOIN"
    for node in select.find_all(exp.Subquery, exp.Table):
        if node.args.get("joins") or (isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Query)):
            yield "joins in parentheses cannot be followed; write them one after the other"
    followed = {id(node) for node, _ in scope.selected_sources.values()}
    if any(id(table) not in followed for table in scope.tables):
        yield "a table is read where it cannot be followed; name it in FROM or JOIN"
    if lineage.reads_rows(scope):
        yield from _judge_reading(scope, floors)
        if lineage.yields_rows(scope):
            yield from _judge_rows(scope, floors)
        else:
            yield from _judge_groups(scope, lineage)


def _judge_reading(scope: Scope, floors: Floors) -> Iterator[str]:
    """Rule on what no SELECT over rows of inputs may do."""
    select = scope.expression
    if any(True for _ in scope.find_all(exp.Window)) or select.args.get("qualify"):
        yield "window functions compare single rows; use them in a SELECT around the one that aggregates"
    for _, source in scope.selected_sources.values():
        if not isinstance(source, exp.Table):
            continue
        for unit in _units(source, floors):
            if unit.casefold() not in floors.columns[source.name.casefold()]:
                yield f"groups of {source.name} are counted by {unit!r}, so the job must ask for that column too"


def _judge_rows(scope: Scope, floors: Floors) -> Iterator[str]:
    """Rule on a SELECT whose results are single rows: it may only feed one that aggregates them."""
    select = scope.expression
    if scope.is_root:
        yield f"the query returns single rows, must aggregate them in groups of at least {floors.size}"
    elif scope.is_subquery:
        yield "a subquery in an expression returns single rows, must aggregate them or be written as a join"
    if select.args.get("distinct"):
        yield "SELECT DISTINCT returns single rows; use GROUP BY"
    if any(select.args.get(clause) for clause in ("limit", "offset", "order")):
        yield "ORDER BY, LIMIT and OFFSET pick single rows here; use them on the groups"


def _judge_groups(scope: Scope, lineage: Lineage) -> Iterator[str]:
    """Rule on a SELECT that aggregates rows."""
    select = scope.expression
    group = select.args.get("group")
    if group is not None and (
        any(value for part, value in group.args.items() if part != "expressions")
        or group.find(exp.Rollup, exp.Cube, exp.GroupingSets)
    ):
        yield "ROLLUP, CUBE, GROUPING SETS and GROUP BY ALL give away what is dropped; name the groups"
    if any(True for _ in scope.find_all(exp.Filter, exp.WithinGroup)):
        yield "FILTER and WITHIN GROUP pick rows within a group; use WHERE or GROUP BY"
    groups = [] if group is None else [_bare(expression) for expression in group.expressions]
    results = [*select.expressions]
    results += [select.args[clause] for clause in ("having", "order") if select.args.get(clause) is not None]
    for result in results:
        yield from _judge_result(result, groups, scope, lineage)


def _judge_result(
    node: exp.Expression, groups: Sequence[exp.Expression], scope: Scope, lineage: Lineage
) -> Iterator[str]:
    """Rule on an expression over groups: it is made of what the rows are grouped by, and of aggregates."""
    if _bare(node) in groups or isinstance(node, exp.Query):  # a subquery is judged as its own scope
        return
    if isinstance(node, exp.AggFunc):
        yield from judge_aggregate(node, scope, lineage)
    elif isinstance(node, exp.Column):
        if node.table or node.name not in scope.expression.named_selects:  # ORDER BY may name a result
            yield f"column {node.name!r} is neither grouped by nor aggregated"
    else:
        for child in node.iter_expressions():
            yield from _judge_result(child, groups, scope, lineage)


class _Rewriter:
    """Add to every aggregating SELECT what its groups must count, and to the SELECTs that feed it what is counted.

    A count of joined rows proves nothing: a join with a table of the analyst's friends may repeat one row as often as
    needed. So the different units of each table are counted or, where the policy names none, its different rows.
    """

    def __init__(self, lineage: Lineage, floors: Floors, *, dialect: str) -> None:
        self._lineage = lineage
        self._floors = floors
        self._row_number = sqlglot.parse_one(_ROW_NUMBER[dialect], read=dialect)
        self._numbers_rows = False
        self._exported: dict[int, list[tuple[str, int]]] = {}

    def rewrite(self, scopes: Sequence[Scope]) -> None:
        """Rewrite the SELECTs that aggregate rows; the scopes come innermost first."""
        aggregating = [
            scope for scope in scopes if self._lineage.reads_rows(scope) and not self._lineage.yields_rows(scope)
        ]
        self._numbers_rows = any(not self._lineage.is_exact(scope) for scope in aggregating)
        for scope in aggregating:
            for node in list(scope.find_all(exp.AggFunc)):
                node.replace(guard_aggregate(node, scope, self._lineage, size=self._floors.size))
            select = scope.expression
            select.having(exp.GTE(this=exp.Count(this=exp.Star()), expression=_number(self._floors.size)), copy=False)
            for table, column, least in self._keys(scope):
                distinct = exp.Distinct(expressions=[_column(column, table)])
                select.having(exp.GTE(this=exp.Count(this=distinct), expression=_number(least)), copy=False)

    def _keys(self, scope: Scope) -> list[tuple[str, str, int]]:
        """Return what tells apart the units or rows behind each row of a scope: alias, column, how many it takes."""
        keys: list[tuple[str, str, int]] = []
        for alias, (_, source) in scope.selected_sources.items():
            if isinstance(source, exp.Table):
                size = self._floors.rules[source.name.casefold()].group_size
                units = _units(source, self._floors)
                keys += [(alias, unit.casefold(), size) for unit in units]
                if size > 1 and not units and self._numbers_rows:
                    self._number(source)
                    keys.append((alias, ROW, size))
            elif self._lineage.yields_rows(source):
                keys += [(alias, name, size) for name, size in self._export(source)]
        return keys

    def _export(self, scope: Scope) -> list[tuple[str, int]]:
        """Add the keys of a scope that yields rows to its results, once, and return their names."""
        here = id(scope.expression)
        if here not in self._exported:
            names: list[tuple[str, int]] = []
            for number, (table, column, size) in enumerate(self._keys(scope)):
                name = f"{_KEY}_{number}"
                scope.expression.select(_column(column, table).as_(name, quoted=True), copy=False)
                names.append((name, size))
            self._exported[here] = names
        return self._exported[here]

    def _number(self, table: exp.Table) -> None:
        """Put a numbered scan in the place of a table."""
        name = table.name
        columns = self._floors.columns[name.casefold()]
        scan = exp.select(*(_column(column, name).as_(column, quoted=True) for column in columns))
        scan = scan.select(self._row_number.copy().as_(ROW, quoted=True))
        scan = scan.from_(exp.Table(this=exp.to_identifier(name, quoted=True)))
        table.replace(scan.subquery(exp.to_identifier(table.alias_or_name, quoted=True)))


def _units(table: exp.Table, floors: Floors) -> tuple[str, ...]:
    rule = floors.rules[table.name.casefold()]
    return rule.units if rule.group_size > 1 else ()


def _soften_casts(query: exp.Query) -> None:
    """Make failing casts NULL: an engine's error message quotes the value that failed."""
    for cast in list(query.find_all(exp.Cast)):
        cast.replace(
            exp.TryCast(this=cast.this, to=cast.to, safe=True)
        )  # Spark's dialect writes TRY_CAST for safe ones


def _bare(node: exp.Expression) -> exp.Expression:
    return node.unalias().unnest()


def _column(name: str, table: str) -> exp.Column:
    return exp.column(exp.to_identifier(name, quoted=True), table=exp.to_identifier(table, quoted=True))


def _number(value: int) -> exp.Literal:
    return exp.Literal.number(value)
