"""The part of SQL that a query may use: kinds of clauses, operators, functions and types (spec/2-policy.md §6.1).

An allow-list. Functions that read files, the environment, settings, other tables or the network are not on it, and nor
is anything that the parser may learn tomorrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sqlglot import exp

_CLAUSES = """
    Select From Join Where Group Having Order Ordered Limit Offset With CTE Subquery Union Intersect Except
    Distinct Window WindowSpec Qualify Filter WithinGroup IgnoreNulls RespectNulls Rollup Cube GroupingSets
"""
_EXPRESSIONS = """
    Paren Alias TableAlias Identifier Table Column Star Literal Boolean Null Tuple DataType DataTypeParam
    Interval Var Neg Not EQ NEQ GT GTE LT LTE Is NullSafeEQ NullSafeNEQ Add Sub Mul Div IntDiv Mod DPipe Like
    ILike Escape Between In Any All And Or Xor Exists Case If Cast TryCast Coalesce Nullif Nvl2 Greatest Least
"""
_SCALARS = """
    Abs Ceil Floor Round Trunc Sign Sqrt Cbrt Exp Ln Log Pow Sin Cos Tan Asin Acos Atan Atan2 Degrees Radians Pi
    IsNan IsInf Upper Lower Initcap Trim Length Substring Left Right Concat ConcatWs Replace Reverse StrPosition
    StartsWith EndsWith Contains RegexpLike RegexpILike RegexpReplace RegexpExtract Levenshtein Extract Year
    Month Day Quarter Week WeekOfYear DayOfWeek DayOfWeekIso DayOfMonth DayOfYear Hour Minute Second LastDay
    Monthname Dayname DateTrunc TimestampTrunc DateAdd DateSub DateDiff TimestampAdd TimestampDiff AddMonths
    MonthsBetween TsOrDsToDate TsOrDsAdd TsOrDsDiff TsOrDsToTimestamp StrToDate StrToTime TimeToStr Date
    Timestamp DateFromParts UnixToTime TimeToUnix CurrentDate CurrentTimestamp
"""
_AGGREGATES = """
    Count CountIf Sum Avg Min Max Stddev StddevPop StddevSamp Variance VariancePop Corr CovarPop CovarSamp
    Skewness Kurtosis RegrSlope RegrIntercept RegrR2 RegrCount Median Quantile ApproxQuantile PercentileCont
    PercentileDisc Mode ApproxDistinct First Last AnyValue ArgMax ArgMin LogicalAnd LogicalOr ArrayAgg
    GroupConcat
"""
_WINDOWS = "RowNumber Rank DenseRank PercentRank CumeDist Ntile Lag Lead FirstValue LastValue NthValue"
_TYPES = """
    BOOLEAN TINYINT SMALLINT INT BIGINT INT128 UTINYINT USMALLINT UINT UBIGINT FLOAT DOUBLE DECIMAL CHAR VARCHAR
    TEXT DATE TIME TIMESTAMP TIMESTAMPTZ TIMESTAMPLTZ TIMESTAMPNTZ DATETIME INTERVAL UUID
"""
_UNITS = """
    CENTURY DECADE YEAR YEARS QUARTER QUARTERS MONTH MONTHS WEEK WEEKS DAY DAYS HOUR HOURS MINUTE MINUTES SECOND
    SECONDS MILLISECOND MILLISECONDS MICROSECOND MICROSECONDS DOW DOY ISODOW ISOYEAR EPOCH DAYOFWEEK DAYOFYEAR
    WEEKDAY YEARWEEK
"""


def _classes(names: str) -> frozenset[type[exp.Expression]]:
    return frozenset(getattr(exp, name) for name in names.split())


AGGREGATES = _classes(_AGGREGATES)
_ALLOWED = AGGREGATES | _classes(_CLAUSES) | _classes(_EXPRESSIONS) | _classes(_SCALARS) | _classes(_WINDOWS)
# Functions that the parser knows by their name only; the last one numbers rows (grouping.py).
_BY_NAME = frozenset({"date_part", "now", "monotonically_increasing_id"})
_ALLOWED_TYPES = frozenset(_TYPES.split())
_ALLOWED_UNITS = frozenset(_UNITS.split())
# What a node may carry besides its children; a set flag that is not here changes the meaning in a way nobody checked.
_JOIN_KINDS = frozenset({"", "INNER", "OUTER", "CROSS", "SEMI", "ANTI"})
_JOIN_SIDES = frozenset({"", "LEFT", "RIGHT", "FULL"})
_CLAUSES_OF_SELECT = frozenset(
    {
        "with_", "with", "expressions", "distinct", "from_", "from", "joins", "where", "group", "having", "qualify",
        "order", "limit", "offset", "windows",
    }
)  # fmt: skip
_PARTS_OF_TABLE = frozenset({"this", "alias", "joins"})


def find_foreign(query: exp.Expression, *, dialect: str) -> Iterator[str]:
    """Yield a reason for everything in ``query`` that is not in the vocabulary."""
    for node in query.walk():
        yield from _judge(node, dialect)


def _judge(node: exp.Expression, dialect: str) -> Iterator[str]:
    if type(node) not in _ALLOWED:
        if isinstance(node, exp.Anonymous) and node.name.lower() in _BY_NAME:
            return
        if isinstance(node, exp.Func):
            yield f"function {_name(node)} is not among those that a query may use"
        else:
            yield f"{_excerpt(node, dialect)} is not part of SQL that a query may use"
    else:
        for kind, judge in _JUDGES.items():
            if isinstance(node, kind):
                yield from judge(node, dialect)


def _judge_select(select: exp.Expression, dialect: str) -> Iterator[str]:  # noqa: ARG001
    for clause, value in select.args.items():
        if value and clause not in _CLAUSES_OF_SELECT:
            yield f"the clause {clause.replace('_', ' ').strip().upper()} is not part of SQL that a query may use"


def _judge_table(table: exp.Expression, dialect: str) -> Iterator[str]:
    if table.args.get("db") or table.args.get("catalog"):
        yield f"table {_excerpt(table, dialect)} is named with a schema, must be named as an input is"
    elif any(value and part not in _PARTS_OF_TABLE for part, value in table.args.items()):
        yield f"{_excerpt(table, dialect)} is not a plain table"
    elif table.args.get("alias") and table.args["alias"].columns:
        # The names would be taken for the columns that are called so, and stand for others.
        yield f"{_excerpt(table, dialect)} renames columns by their place; rename them in a SELECT"


def _judge_with(clause: exp.Expression, dialect: str) -> Iterator[str]:  # noqa: ARG001
    if clause.args.get("recursive"):
        yield "WITH RECURSIVE is not part of SQL that a query may use"


def _judge_type(node: exp.Expression, dialect: str) -> Iterator[str]:
    if getattr(node.this, "name", str(node.this)) not in _ALLOWED_TYPES or node.args.get("nested"):
        yield f"type {_excerpt(node, dialect)} is not among those that a query may use"


def _judge_word(word: exp.Expression, dialect: str) -> Iterator[str]:  # noqa: ARG001
    if word.name.upper() not in _ALLOWED_UNITS:
        yield f"{word.name[:40]!r} is not part of SQL that a query may use"


def _judge_join(join: exp.Expression, dialect: str) -> Iterator[str]:  # noqa: ARG001
    kind, side, method = (str(join.args.get(part) or "").upper() for part in ("kind", "side", "method"))
    if method:
        yield f"{method} JOIN matches rows by what the query does not name; use JOIN ... ON"
    if kind not in _JOIN_KINDS or side not in _JOIN_SIDES or join.args.get("match_condition"):
        yield f"{' '.join((side, kind)).strip()} JOIN is not part of SQL that a query may use"


_JUDGES: Mapping[type[exp.Expression], Callable[[exp.Expression, str], Iterator[str]]] = {
    exp.Select: _judge_select,
    exp.Table: _judge_table,
    exp.Join: _judge_join,
    exp.With: _judge_with,
    exp.DataType: _judge_type,
    exp.Var: _judge_word,
}


def _name(function: exp.Func) -> str:
    name: str = function.name if isinstance(function, exp.Anonymous) else function.sql_name()
    return name.lower()[:60] + "()"


def _excerpt(node: exp.Expression, dialect: str) -> str:
    """Return the beginning of a node as SQL, or its kind where it cannot be written in this dialect."""
    try:
        text = " ".join(str(node.sql(dialect=dialect, comments=False)).split())
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        text = node.key.upper()
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004
