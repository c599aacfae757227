"""Write what PyTorch learned as plain data, and read it back: safetensors for tensors, JSON for the rest.

Never a pickle, which runs code when it is loaded (spec/3-job.md §9): a state is taken apart into tensors, numbers,
texts, lists and mappings, and anything else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from strongroom.errors import EnvelopeError, UsageError

WEIGHTS = "model.safetensors"
STRUCTURE = "state.json"
TENSORS = "state.safetensors"
_DEPTH = 64


def holds_weights(given: object) -> bool:
    """Return whether ``given`` is a PyTorch module, or a mapping from names to tensors; loads nothing."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if isinstance(given, torch.nn.Module):
        return True
    return isinstance(given, Mapping) and bool(given) and all(isinstance(one, torch.Tensor) for one in given.values())


def write_weights(given: Any, directory: Path) -> Path:  # noqa: ANN401  a module or a state dict
    """Write the weights of a module, or a state dict, into ``directory`` as ``model.safetensors``; return it.

    DistributedDataParallel's wrapping is taken off. Tensors that share memory are written once each.
    """
    from safetensors.torch import save_file

    if not isinstance(given, Mapping):
        given = getattr(given, "module", given).state_dict()
    save_file(apart(given), str(directory / WEIGHTS))
    return directory


def read_weights(files: Mapping[str, IO[bytes]]) -> dict[str, Any]:
    """Return the tensors of every ``*.safetensors`` file of an input, by name; raise UsageError if there is none."""
    from safetensors.torch import load

    names = sorted(name for name in files if name.endswith(".safetensors"))
    if not names:
        raise UsageError(f"the input holds no .safetensors file, but {sorted(files)[:5]}", hint="use room.open")
    found: dict[str, Any] = {}
    for name in names:
        with files[name] as stream:
            found |= load(stream.read())
    return found


def take_apart(state: object) -> tuple[str, dict[str, Any]]:
    """Return ``state`` as JSON text and the tensors it names; raise UsageError for anything that is not plain data."""
    tensors: dict[str, Any] = {}
    text = json.dumps(_encode(state, tensors, _DEPTH), allow_nan=True)
    return text, apart(tensors)


def put_together(text: str, tensors: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the state that :func:`take_apart` took apart; raise EnvelopeError if the parts do not fit."""
    try:
        return _decode(json.loads(text), tensors)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise EnvelopeError("this is not a state that was taken apart") from error


def apart(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return contiguous tensors of the CPU that share no memory with each other."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        host = tensor.detach().to("cpu").contiguous()
        place = host.untyped_storage().data_ptr()
        found[str(name)] = host.clone() if place in seen or host.untyped_storage().nbytes() != host.nbytes else host
        seen.add(place)
    return found


def _encode(value: Any, tensors: dict[str, Any], depth: int) -> Any:  # noqa: ANN401  JSON
    import torch

    if depth == 0:
        raise UsageError(f"a state is at most {_DEPTH} levels deep")
    if isinstance(value, torch.Tensor):
        tensors[name := f"t{len(tensors)}"] = value
        return {"tensor": name}
    if value is None or type(value) in {bool, int, float, str}:
        return {"value": value}
    if isinstance(value, Mapping):
        pairs = [[_encode(key, tensors, depth - 1), _encode(one, tensors, depth - 1)] for key, one in value.items()]
        return {"mapping": pairs}
    if isinstance(value, list | tuple):
        return {
            type(value).__name__ if type(value) in {list, tuple} else "list": [
                _encode(one, tensors, depth - 1) for one in value
            ]
        }
    raise UsageError(
        f"a checkpoint holds tensors, numbers, texts, lists and mappings, got {type(value).__name__}",
        hint="keep state_dict() of model and optimizer; other objects would be pickles",
    )


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:  # noqa: ANN401
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "value":
        return content
    if kind == "mapping":
        return {_decode(key, tensors): _decode(one, tensors) for key, one in content}
    if kind in {"list", "tuple"}:
        found = [_decode(one, tensors) for one in content]
        return tuple(found) if kind == "tuple" else found
    raise ValueError(kind)
