"""Say everything that is wrong with a document, at once and for a person (spec/2-policy.md §2).

A problem names the key, what was got, what was expected and a line that would have been right. A document with one
problem is refused whole; nothing is defaulted, trimmed or guessed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from strongroom.errors import PolicyError

Form = TypeVar("Form", bound=BaseModel)

MAX_DOCUMENT_BYTES = 1 << 20
_SHOWN = 60
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    str: "text in quotes",
    list: "a list",
    dict: "a table",
}
_EXPECTED = {
    "bool_type": "true or false, without quotes",
    "int_type": "a whole number, without quotes",
    "int_from_float": "a whole number",
    "string_type": "text in quotes",
    "list_type": "a list in [ ]",
    "model_type": "a table",
    "dict_type": "a table",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a document: where, what was got, what was expected, and a line that would be right."""

    key: str
    got: str
    expected: str
    example: str = ""

    def __str__(self) -> str:
        line = f"{self.key}: {self.got}, expected {self.expected}" if self.expected else f"{self.key}: {self.got}"
        return f"{line} (for example: {self.example})" if self.example else line


class DocumentError(PolicyError):
    """A policy or job document is malformed; ``problems`` holds everything that is wrong with it."""

    def __init__(self, what: str, problems: Sequence[Problem], *, hint: str = "") -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        lines = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems, start=1))
        super().__init__(f"{what} has {count}:{lines}", hint=hint or "correct every line named above, then try again")
        self.problems = tuple(problems)


def parse_toml(text: str, *, what: str) -> dict[str, Any]:
    """Return the tables of a TOML text; raise DocumentError naming the line that is not TOML."""
    if len(text) > MAX_DOCUMENT_BYTES:
        got = f"{len(text)} characters"
        raise DocumentError(what, [Problem(key="document", got=got, expected=f"at most {MAX_DOCUMENT_BYTES}")])
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        got = f"not TOML ({str(error)[:200]})"
        hint = "text stands in double quotes, lists in [ ], and every table has its own [heading]"
        raise DocumentError(what, [Problem(key="document", got=got, expected="TOML 1.0")], hint=hint) from error


def read_form(form: type[Form], document: Mapping[str, Any], *, what: str) -> Form:
    """Return the document as ``form``; raise DocumentError listing every problem in the order of the form."""
    try:
        return form.model_validate(dict(document), strict=True)
    except ValidationError as error:
        problems = [_problem(form, dict(item)) for item in error.errors(include_url=False)]
    raise DocumentError(what, problems)


def shown(value: object) -> str:
    """Return a value as a person may read it back: short, quoted, on one line."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _problem(form: type[BaseModel], item: Mapping[str, Any]) -> Problem:
    location: tuple[str | int, ...] = item["loc"]
    key = _dotted(location) or "document"
    kind: str = item["type"]
    if kind == "missing":
        field = _field(form, location)
        expected = field.description if field is not None and field.description else "this key"
        return Problem(key=key, got="missing", expected=expected, example=_example(form, location))
    if kind == "extra_forbidden":
        return _unknown_key(form, location)
    got = f"got {shown(item['input'])}"
    if not isinstance(item["input"], str | int | float | list | dict):
        got += f" ({type(item['input']).__name__})"
    expected = _EXPECTED.get(kind) or str(item["msg"]).removeprefix("Input should be ")
    expected = expected.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return Problem(key=key, got=got, expected=expected, example=_example(form, location))


def _unknown_key(form: type[BaseModel], location: tuple[str | int, ...]) -> Problem:
    parent = _model(form, location[:-1])
    known = list(parent.model_fields) if parent is not None else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    expected = f"{close[0]!r} (did you mean that?)" if close else f"one of {', '.join(known)}"
    return Problem(key=_dotted(location), got="unknown key", expected=expected)


def _dotted(location: Sequence[str | int]) -> str:
    """Return ``outputs.recipients[2]`` for the place in the document."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _field(form: type[BaseModel], location: Sequence[str | int]) -> FieldInfo | None:
    """Return the field of the form that a place in the document belongs to."""
    names = [part for part in location if isinstance(part, str)]
    while names:
        parent = _model(form, names[:-1])
        if parent is not None and names[-1] in parent.model_fields:
            return parent.model_fields[names[-1]]
        names.pop()
    return None


def _example(form: type[BaseModel], location: Sequence[str | int]) -> str:
    field = _field(form, location)
    return str(field.examples[0]) if field is not None and field.examples else ""


def _model(form: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the form of the table at a place in the document; names of entries and list positions are skipped."""
    here: type[BaseModel] | None = form
    for part in location:
        if isinstance(part, int) or here is None:
            continue
        if part in here.model_fields:
            nested = _nested(here.model_fields[part].annotation)
            if nested is None:
                return None
            here = nested
    return here


def _nested(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _nested(argument)
        if found is not None:
            return found
    return None
