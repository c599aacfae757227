"""Rule on what is aggregated: nothing that picks rows out within a group (spec/2-policy.md §6.3).

``sum(CASE WHEN id = 42 THEN pay END)`` shows one person's pay however large the group is. So arguments are columns and
arithmetic over them; a product, which a column of zeros and a one turns into a condition, needs a guard.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from strongroom.policy.lineage import Lineage, Polynomial, multiply

MAX_DEGREE = 3
_SUMS = (exp.Sum, exp.Avg)
_SPREADS = (exp.Stddev, exp.StddevPop, exp.StddevSamp, exp.Variance, exp.VariancePop)
_PAIRS = (exp.Corr, exp.CovarPop, exp.CovarSamp)
_NAMES = "count, sum, avg, stddev, variance, corr and covar"


def judge_aggregate(node: exp.AggFunc, scope: Scope, lineage: Lineage) -> Iterator[str]:
    """Yield every reason why an aggregate may show single rows."""
    written = _excerpt(node)
    if isinstance(node, exp.Count):
        if not _counts_columns(node, scope, lineage):
            yield f"{written} may count chosen rows only, must be count(*), count(column) or count(DISTINCT column)"
    elif not isinstance(node, (*_SUMS, *_SPREADS, *_PAIRS)):
        yield f"{written} may show single rows, must be one of {_NAMES}"
    else:
        summed = _summed(node, scope, lineage)
        if summed is None:
            yield f"{written} may pick out single rows, its argument must be +, -, * and numbers over columns"
        elif summed.degree > MAX_DEGREE:
            yield f"{written} multiplies {summed.degree} columns, must multiply at most {MAX_DEGREE}"


def guard_aggregate(node: exp.AggFunc, scope: Scope, lineage: Lineage, *, size: int) -> exp.Expression:
    """Return the aggregate, NULL where it sums products and a factor has too few values to hide single rows.

    In one factor, a polynomial of power p is zero for at most p values. If a group holds ``size`` more values than
    that, at least ``size`` rows weigh in the result.
    """
    summed = None if isinstance(node, exp.Count) else _summed(node, scope, lineage)
    if summed is None or summed.degree <= 1:
        return node
    enough = exp.and_(
        *(
            exp.GTE(
                this=exp.Count(this=exp.Distinct(expressions=[_column(name, table)])),
                expression=exp.Literal.number(size + power),
            )
            for (table, name), power in sorted(summed.powers.items())
        )
    )
    return exp.Case(ifs=[exp.If(this=enough, true=node.copy())])


def _summed(node: exp.AggFunc, scope: Scope, lineage: Lineage) -> Polynomial | None:
    """Return the polynomial that an aggregate sums up: a spread sums squares, a pair products."""
    first = lineage.polynomial(node.this, scope)
    if isinstance(node, _PAIRS):
        return multiply(first, lineage.polynomial(node.expression, scope))
    if isinstance(node, _SPREADS) and first is not None and (first.degree > 1 or len(first.powers) > 1):
        return multiply(first, first)  # the spread of one column is what it is; that of a sum holds products
    return first


def _column(name: str, table: str) -> exp.Column:
    return exp.column(exp.to_identifier(name, quoted=True), table=exp.to_identifier(table, quoted=True))


def _counts_columns(node: exp.Count, scope: Scope, lineage: Lineage) -> bool:
    counted = node.this
    if node.args.get("expressions"):
        return False
    if counted is None or isinstance(counted, exp.Star | exp.Literal):
        return True
    if isinstance(counted, exp.Distinct):
        columns = counted.expressions
        return not counted.args.get("on") and len(columns) == 1 and lineage.is_column(columns[0], scope)
    return lineage.is_column(counted, scope)


def _excerpt(node: exp.Expression) -> str:
    text = " ".join(str(node.sql(comments=False)).split())
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004
