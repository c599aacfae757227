"""Read what a serving program declares from its source alone, as whoever approves it does (spec/8-serving.md §4).

Pure, and nothing is run: what a program computes is never a label, a description or an output's name.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from strongroom.errors import UsageError

_DECLARED: Final = ("INPUTS", "OUTPUTS", "LABELS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What stands in a program: descriptions of inputs and outputs, labels by output, and every text in it."""

    inputs: tuple[Mapping[str, Any], ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()


def read_declared(source: bytes) -> Declared:
    """Return what ``source`` declares; raise UsageError if a declaration is computed, or of another shape."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"the program is not valid Python (line {getattr(error, 'lineno', None)})") from error
    found = {name: value for statement in tree.body for name, value in _assigned(statement)}
    inputs, outputs, labels = found.get("INPUTS", ()), found.get("OUTPUTS", ()), found.get("LABELS", {})
    for name, listed in (("INPUTS", inputs), ("OUTPUTS", outputs)):
        if not isinstance(listed, list | tuple) or not all(isinstance(one, dict) for one in listed):
            raise UsageError(f"{name} is a list of mappings", hint='write [{"name": …, "datatype": …, "shape": […]}]')
    if not isinstance(labels, dict) or not all(isinstance(one, list | tuple) for one in labels.values()):
        raise UsageError("LABELS maps outputs to lists", hint='write {"finding": ["malignant", "benign"]}')
    texts = {one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    keywords = {one.arg for one in ast.walk(tree) if isinstance(one, ast.keyword) and one.arg is not None}
    return Declared(inputs=tuple(inputs), outputs=tuple(outputs), labels=labels, names=frozenset(texts | keywords))


def _assigned(statement: ast.stmt) -> list[tuple[str, Any]]:
    """Return the declarations that a statement makes, with their values."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    else:
        return []
    names = [one.id for one in targets if isinstance(one, ast.Name) and one.id in _DECLARED]
    try:
        return [(name, ast.literal_eval(statement.value)) for name in names]  # type: ignore[arg-type]  # not None
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{names[0]} is computed, must be written out in the program",
            hint="whoever approves the program reads there what its answers may say",
        ) from error
