"""Read and write the tensors of the Open Inference Protocol v2, in JSON or with its binary extension.

What a caller sends is validated here, whole, before anything else sees it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strongroom.errors import UsageError

MOST_INPUTS: Final = 64
MOST_ROWS: Final = 4096
BINARY_HEADER: Final = "inference-header-content-length"
_TYPES: Final[Mapping[str, str]] = {
    "BOOL": "?",
    **{f"{sign}INT{bits}": f"<{code}{bits // 8}" for sign, code in (("U", "u"), ("", "i")) for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
_TEXT: Final = "BYTES"
_LENGTH_BYTES: Final = 4
_MOST_DIGITS: Final = 12
# Extensions that would change what an answer is or where it lies, so that leaving them out in silence would be wrong.
_NOT_OFFERED: Final = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification")

Array = npt.NDArray[Any]


class TensorError(UsageError):
    """A request of the inference protocol is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """What a caller asks: named tensors with the same number of rows, and which outputs in binary."""

    inputs: Mapping[str, Array]
    rows: int
    id: str = ""
    wanted: tuple[str, ...] = ()
    binary: frozenset[str] = field(default_factory=frozenset)
    all_binary: bool = False


def parse_request(body: bytes, *, header_bytes: int | None = None) -> InferenceRequest:
    """Return the request in ``body``, whose first ``header_bytes`` are JSON if binary tensors follow."""
    head, rest = (body, b"") if header_bytes is None else (body[:header_bytes], body[header_bytes:])
    try:
        value = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise TensorError("the request is not JSON") from error
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), list):
        raise TensorError("the request has no list of inputs", hint='send {"inputs": [{"name", "shape", ...}]}')
    given = value["inputs"]
    if not 0 < len(given) <= MOST_INPUTS:
        raise TensorError(f"a request has 1 to {MOST_INPUTS} inputs, got {len(given)}")
    inputs: dict[str, Array] = {}
    for one in given:
        name, tensor, rest = _read_tensor(one, rest)
        if name in inputs:
            raise TensorError(f"input {name!r} stands there twice")
        inputs[name] = tensor
    if rest:
        raise TensorError(f"{len(rest)} bytes follow the last tensor")
    rows = {tensor.shape[0] for tensor in inputs.values()}
    if len(rows) != 1 or not 0 < min(rows) <= MOST_ROWS:
        raise TensorError(f"all inputs have the same number of rows, from 1 to {MOST_ROWS}; got {sorted(rows)}")
    outputs = value.get("outputs") or []
    parameters = value.get("parameters") or {}
    if not isinstance(outputs, list) or not isinstance(parameters, dict):
        raise TensorError("outputs is a list, and parameters an object")
    if not all(isinstance(one, dict) and isinstance(one.get("parameters") or {}, dict) for one in outputs):
        raise TensorError("an output that is asked for is an object, and its parameters another")
    named: list[dict[str, Any]] = outputs
    _expect_offered(part.get("parameters") for part in (value, *given, *named))
    return InferenceRequest(
        inputs=inputs,
        rows=rows.pop(),
        id=str(value.get("id", ""))[:200],
        wanted=tuple(str(one.get("name")) for one in named),
        binary=frozenset(str(one.get("name")) for one in named if (one.get("parameters") or {}).get("binary_data")),
        all_binary=parameters.get("binary_data_output") is True,
    )


def _expect_offered(parameters: Iterable[object]) -> None:
    """Raise TensorError if any parameter belongs to an extension that is not offered."""
    for some in parameters:
        found = next((name for name in _NOT_OFFERED if isinstance(some, dict) and name in some), None)
        if found is not None:
            raise TensorError(f"the extension of {found} is not offered", hint="GET /v2 lists the extensions")


def read_header_bytes(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes of a body are JSON, none if all; raise TensorError if the header is no such number."""
    text = headers.get(BINARY_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise TensorError(f"{BINARY_HEADER} is the length of the JSON in bytes")
    return int(text)


def encode_answer(
    outputs: Mapping[str, Array], request: InferenceRequest, *, model: str, version: str
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON if binary tensors follow."""
    chosen = [name for name in outputs if not request.wanted or name in request.wanted]
    missing = [name for name in request.wanted if name not in outputs]
    if missing:
        raise TensorError(f"the model has no output {missing[0][:80]!r}; it has {sorted(outputs)}")
    described, raw = [], []
    for name in chosen:
        tensor = outputs[name]
        kind = datatype(tensor)
        one: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": kind}
        if request.all_binary or name in request.binary:
            data = _to_bytes(tensor, kind)
            one["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            one["data"] = tensor.ravel().tolist()
        described.append(one)
    answer = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        answer["id"] = request.id
    head = json.dumps(answer, separators=(",", ":")).encode()
    return (head + b"".join(raw), len(head)) if raw else (head, None)


def datatype(tensor: Array) -> str:
    """Return the protocol's name of a tensor's type."""
    return next((name for name, code in _TYPES.items() if np.dtype(code) == tensor.dtype), _TEXT)


def _read_tensor(one: object, rest: bytes) -> tuple[str, Array, bytes]:
    """Return a tensor's name and values, and the binary data that is left."""
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise TensorError("an input has a name, a shape, a datatype and data")
    name, shape, kind = one["name"], one.get("shape"), one.get("datatype")
    if not name or len(name) > 200 or not name.isprintable():  # noqa: PLR2004  a name for people
        raise TensorError("an input's name has 1 to 200 printable characters")
    if not isinstance(shape, list) or not shape or not all(type(side) is int and side > 0 for side in shape):
        raise TensorError(f"input {name!r} has no shape of whole numbers")
    size = math.prod(shape)
    if not isinstance(kind, str) or (kind not in _TYPES and kind != _TEXT):
        raise TensorError(f"input {name!r} has an unknown datatype {str(kind)[:20]!r}")
    parameters = one.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        length = parameters["binary_data_size"]
        if type(length) is not int or not 0 <= length <= len(rest) or "data" in one:
            raise TensorError(f"input {name!r} says a binary size that does not fit")
        tensor, rest = _from_bytes(rest[:length], kind, name=name), rest[length:]
    else:
        tensor = _from_list(one.get("data"), kind, name=name)
    if tensor.size != size:
        raise TensorError(f"input {name!r} has {tensor.size} values, its shape {shape} needs {size}")
    return name, tensor.reshape(shape), rest


def _from_list(data: object, kind: str, *, name: str) -> Array:
    if not isinstance(data, list):
        raise TensorError(f"input {name!r} has no data")
    try:
        values = np.array(data, dtype=object if kind == _TEXT else _TYPES[kind])
    except (ValueError, TypeError, OverflowError) as error:
        raise TensorError(f"input {name!r} has data that is not {kind}") from error
    if kind == _TEXT and not all(isinstance(one, str) for one in values.ravel()):
        raise TensorError(f"input {name!r} has data that is not text")
    return values


def _from_bytes(data: bytes, kind: str, *, name: str) -> Array:
    if kind != _TEXT:
        try:
            return np.frombuffer(data, dtype=_TYPES[kind])
        except ValueError as error:
            raise TensorError(f"input {name!r} has binary data of a broken length") from error
    texts, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + _LENGTH_BYTES], "little")
        at += _LENGTH_BYTES
        if at + size > len(data):
            raise TensorError(f"input {name!r} has binary text that is cut off")
        texts.append(data[at : at + size].decode(errors="replace"))
        at += size
    return np.array(texts, dtype=object)


def _to_bytes(tensor: Array, kind: str) -> bytes:
    if kind != _TEXT:
        return np.ascontiguousarray(tensor, dtype=_TYPES[kind]).tobytes()
    texts: Sequence[bytes] = [str(one).encode() for one in tensor.ravel()]
    return b"".join(len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in texts)
