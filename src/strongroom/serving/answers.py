"""Cut a program's outputs to what the owners' fused policy lets an answer hold (spec/8-serving.md §4).

Pure. What is not a label from a closed list, a rounded score or bounded text does not leave.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strongroom.errors import RefusedError
from strongroom.policy.document import ServingRules
from strongroom.serving.declared import Declared

MOST_LABELS: Final = 4096
PIECE_CHARACTERS: Final = 64
_PLACES: Final = "_index"
_FLAT, _TABLE = 1, 2
_LABELS: Final = (bool, int, str)  # these very types: a subclass could say that it is equal to what it is not

Array = npt.NDArray[Any]


class AnswerRefusedError(RefusedError):
    """An answer holds more than the owners permit, so none is given."""


def limit_outputs(
    outputs: Mapping[str, Any], *, rows: int, rules: ServingRules, declared: Declared
) -> dict[str, Array]:
    """Return ``outputs`` as they may leave; raise AnswerRefusedError with every reason if they may not.

    ``declared`` is what stands in the approved program. A reason quotes nothing that the program computed.
    """
    if not isinstance(outputs, Mapping) or not outputs:
        raise AnswerRefusedError("the program gave no answer", reasons=("predict returned no mapping from names",))
    found: dict[str, Array] = {}
    reasons: list[str] = []
    for name, given in outputs.items():
        values = np.asarray(given)
        if type(name) is not str or name not in declared.names:
            reasons.append("an output has a name that does not stand in the program")
        elif values.shape[:1] != (rows,) or values.ndim > _TABLE:
            reasons.append(f"output {name!r} has another shape than one row for each of {rows}")
        elif values.dtype.kind == "f":
            reasons.extend(_limit_scores(name, values, rules, found))
        elif values.dtype.kind in "biuUSO":
            reasons.extend(_limit_labels(name, values, rules, declared.labels.get(name, ()), found))
        else:
            reasons.append(f"output {name!r} holds what is neither a label nor a score")
    in_a_row = sum(1 if one.ndim == _FLAT else one.shape[1] for one in found.values() if one.dtype.kind == "f")
    if rules.top is not None and in_a_row > rules.top:
        reasons.append(f"the outputs together hold more scores in a row than the {rules.top} permitted")
    if reasons:
        raise AnswerRefusedError("the answer may not leave", reasons=reasons)
    return found


def round_scores(scores: Array, *, digits: int) -> npt.NDArray[np.float64]:
    """Return ``scores`` with at most ``digits`` digits each, none beyond that decimal; zero has no sign."""
    values = np.asarray(scores, dtype=np.float64)
    if _largest(values) < 1:  # chances and the like have no digits before the point
        scale = 10.0**digits
        small: npt.NDArray[np.float64] = values * scale
        np.rint(small, out=small)
        small /= scale
        small += 0.0
        return small
    with np.errstate(divide="ignore", over="ignore"):
        before_point = np.where(values == 0, 0.0, np.floor(np.log10(np.abs(values))))
        places = np.minimum(digits, digits - 1 - before_point)
        up, down = np.power(10.0, np.maximum(places, 0)), np.power(10.0, np.maximum(-places, 0))
        rounded: npt.NDArray[np.float64] = np.rint(values * up / down) * down / up + 0.0
    return rounded


def limit_pieces(pieces: Iterator[str], *, rules: ServingRules, most: int | None = None) -> Iterator[str]:
    """Yield generated text, piece by piece, up to as many as the policy (or ``most``, if fewer) allows."""
    if "text" not in rules.kinds:
        raise AnswerRefusedError("the answer may not leave", reasons=("text is not among the answers permitted",))
    bound = rules.tokens if most is None else min(most, rules.tokens)
    for _, piece in zip(range(bound), pieces, strict=False):
        if type(piece) is not str or len(piece) > PIECE_CHARACTERS:
            raise AnswerRefusedError(
                "the answer may not leave", reasons=(f"a piece of text has at most {PIECE_CHARACTERS} characters",)
            )
        yield piece


def _limit_scores(name: str, values: Array, rules: ServingRules, found: dict[str, Array]) -> Iterator[str]:
    if "scores" not in rules.kinds:
        yield f"output {name!r} holds scores, permitted are {_listed(rules.kinds)}"
    elif not math.isfinite(largest := _largest(values)):  # of several, the one that is no number is the largest
        yield f"output {name!r} holds a score that is not finite"
    else:
        scores = round_scores(values, digits=rules.digits)
        if largest >= 1 and not np.isfinite(scores).all():
            yield f"output {name!r} holds a score that is not finite once it is rounded"
            return
        if rules.top is not None and scores.ndim == _TABLE and scores.shape[1] > rules.top:
            places = np.argsort(-scores, axis=1, kind="stable")[:, : rules.top]
            scores = np.take_along_axis(scores, places, axis=1)
            found[f"{name}{_PLACES}"] = places.astype(np.int64)
        found[name] = scores


def _largest(scores: Array) -> float:
    """Return the largest of ``scores`` without their signs: 0 of none, and no number where one of them is none."""
    return float(np.maximum.reduce(np.abs(scores), axis=None, initial=0.0))


def _limit_labels(
    name: str, values: Array, rules: ServingRules, known: Sequence[Any], found: dict[str, Array]
) -> Iterator[str]:
    if "labels" not in rules.kinds:
        yield f"output {name!r} holds labels, permitted are {_listed(rules.kinds)}"
    elif not known or len(known) > MOST_LABELS:
        yield f"output {name!r} has no closed list of at most {MOST_LABELS} labels in the program's LABELS"
    elif values.ndim != _FLAT:
        yield f"output {name!r} has several labels in one row, at most one is permitted"
    else:
        allowed = {(type(one) is bool, one) for one in known}
        listed = values.tolist()
        if all(type(one) in _LABELS and (type(one) is bool, one) in allowed for one in listed):
            found[name] = np.array([str(one) for one in listed], dtype=object) if _is_text(listed) else _plain(values)
        else:
            yield f"output {name!r} holds a label that is not in the program's LABELS"


def _plain(values: Array) -> Array:
    return values.astype(np.bool_ if values.dtype.kind == "b" else np.int64)


def _is_text(listed: Sequence[Any]) -> bool:
    return any(isinstance(one, str) for one in listed)


def _listed(kinds: Sequence[str]) -> str:
    return " and ".join(kinds) or "none"
