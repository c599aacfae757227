"""Tell which SELECTs of a query show single rows of inputs, and what a column is made of (spec/2-policy.md §6.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp
from sqlglot.optimizer.scope import Scope

_FLOATS = (exp.DataType.Type.DOUBLE, exp.DataType.Type.FLOAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """A polynomial's degree, and the highest power of each column (table, name) in it; a constant has none."""

    degree: int = 0
    powers: Mapping[tuple[str, str], int] = field(default_factory=dict)


def add(left: Polynomial | None, right: Polynomial | None) -> Polynomial | None:
    """Return the sum's shape."""
    if left is None or right is None:
        return None
    powers = {key: max(left.powers.get(key, 0), right.powers.get(key, 0)) for key in {*left.powers, *right.powers}}
    return Polynomial(degree=max(left.degree, right.degree), powers=powers)


def multiply(left: Polynomial | None, right: Polynomial | None) -> Polynomial | None:
    """Return the product's shape."""
    if left is None or right is None:
        return None
    powers = {key: left.powers.get(key, 0) + right.powers.get(key, 0) for key in {*left.powers, *right.powers}}
    return Polynomial(degree=left.degree + right.degree, powers=powers)


class Lineage:
    """What each scope of a resolved query reads, found once, from the innermost outwards."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._reads: set[int] = set()
        self._yields: set[int] = set()
        self._exact: set[int] = set()
        for scope in scopes:
            self._learn(scope)

    def reads_rows(self, scope: Scope) -> bool:
        """Return whether the scope's sources are rows of inputs, or of SELECTs that yield them."""
        return id(scope.expression) in self._reads

    def yields_rows(self, scope: Scope) -> bool:
        """Return whether the scope's results are single rows: it reads rows and does not aggregate them."""
        return id(scope.expression) in self._yields

    def is_exact(self, scope: Scope) -> bool:
        """Return whether each row that the scope sees is a different row of one input: nothing is joined."""
        return id(scope.expression) in self._exact

    def polynomial(self, node: exp.Expression, scope: Scope) -> Polynomial | None:
        """Return what polynomial of input columns an expression is, or None if it is anything else.

        Conditions, functions and rounding casts are None: with them an expression can be zero for all rows but one. So
        is a product made in an inner SELECT, whose factors are out of sight.
        """
        found: Polynomial | None = None
        match node:
            case exp.Paren() | exp.Alias() | exp.Neg():
                found = self.polynomial(node.this, scope)
            case exp.Literal():
                found = None if node.is_string else Polynomial()
            case exp.Column():
                found = self._column(node, scope)
            case exp.Add() | exp.Sub():
                found = add(self.polynomial(node.left, scope), self.polynomial(node.right, scope))
            case exp.Mul():
                found = multiply(self.polynomial(node.left, scope), self.polynomial(node.right, scope))
            case exp.Div() if self.polynomial(node.right, scope) == Polynomial():
                found = self.polynomial(node.left, scope)
            case exp.Cast() if node.to.this in _FLOATS:
                found = self.polynomial(node.this, scope)
        return found

    def is_column(self, node: exp.Expression, scope: Scope) -> bool:
        """Return whether an expression is nothing but a column of an input, through any number of SELECTs."""
        node = node.unalias().unnest()
        if not isinstance(node, exp.Column):
            return False
        _, source = scope.selected_sources.get(node.table, (None, None))
        if isinstance(source, exp.Table):
            return True
        if not isinstance(source, Scope) or not self.yields_rows(source):
            return False
        made = _projection(source, node.name)
        return made is not None and self.is_column(made, source)

    def _column(self, column: exp.Column, scope: Scope) -> Polynomial | None:
        _, source = scope.selected_sources.get(column.table, (None, None))
        itself = Polynomial(degree=1, powers={(column.table, column.name): 1})
        if isinstance(source, exp.Table):
            return itself
        # A column of groups may be any condition on them, and joined to rows it would pick rows.
        if not isinstance(source, Scope) or not self.yields_rows(source):
            return None
        made = _projection(source, column.name)
        inner = None if made is None else self.polynomial(made, source)
        if inner is None or inner.degree > 1:
            return None
        return itself if inner.degree else inner

    def _learn(self, scope: Scope) -> None:
        here, select = id(scope.expression), scope.expression
        sources = [source for _, source in scope.selected_sources.values()]
        if isinstance(select, exp.SetOperation):
            sources = list(scope.set_operation_scopes)
        feeds = [isinstance(source, exp.Table) or id(source.expression) in self._yields for source in sources]
        if any(feeds):
            self._reads.add(here)
            if not _aggregates(scope):
                self._yields.add(here)
        if len(sources) == 1 and feeds[0]:
            (source,) = sources
            if isinstance(source, exp.Table) or id(source.expression) in self._exact:
                self._exact.add(here)


def _aggregates(scope: Scope) -> bool:
    """Return whether the scope's SELECT makes groups; aggregates used as window functions make none."""
    select = scope.expression
    if not isinstance(select, exp.Select):
        return False
    if select.args.get("group") or select.args.get("having"):
        return True
    return any(node.find_ancestor(exp.Window, exp.Select) is select for node in scope.find_all(exp.AggFunc))


def _projection(scope: Scope, name: str) -> exp.Expression | None:
    """Return the expression behind a scope's result of that name."""
    return next((made for made in scope.expression.selects if made.alias_or_name == name), None)
