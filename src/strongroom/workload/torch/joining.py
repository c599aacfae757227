"""Let ``torch.distributed.init_process_group()`` join the job's mesh, and nothing else (spec/3-job.md §10).

Gloo, NCCL, MPI and UCC would send gradients in the clear, so they are refused by name; beneath that, the kernel denies
programs TCP. With one worker there is no traffic, whatever backend is named, and ours stands in for it.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from strongroom.workload.collectives import ClearTrafficError
from strongroom.workload.mesh.mesh import Mesh

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_MARK = "__joins_the_mesh__"

_mesh: Mesh | None = None


def enter_mesh(mesh: Mesh) -> None:
    """Let this process join ``mesh`` when its program asks PyTorch for a process group; set what torchrun would set."""
    global _mesh  # noqa: PLW0603  one process takes part in one mesh at a time
    _mesh = mesh
    values = (mesh.rank, mesh.size, 0, 1, mesh.rank, "strongroom", 1)
    os.environ.update({name: str(value) for name, value in zip(_ENVIRONMENT, values, strict=True)})


def leave_mesh() -> None:
    """Forget the mesh, and every process group that was made over it."""
    global _mesh  # noqa: PLW0603
    _mesh = None
    for name in _ENVIRONMENT:
        os.environ.pop(name, None)
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def hold_distributed(module: ModuleType) -> None:
    """Hold ``torch.distributed.distributed_c10d``, as it is loaded, to the backend ``strongroom``."""
    if hasattr(module, _MARK):
        return
    setattr(module, _MARK, True)
    package = sys.modules.get("torch.distributed")  # which may have taken the names already
    for name, guard in (("init_process_group", _hold_first), ("new_group", _hold_group)):
        made = getattr(module, name)
        held = guard(made, module)
        setattr(module, name, held)
        if getattr(package, name, None) is made:
            setattr(package, name, held)


def _hold_first(made: Callable[..., Any], module: ModuleType) -> Callable[..., Any]:
    signature = inspect.signature(made)

    @functools.wraps(made)
    def init_process_group(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  as PyTorch has it
        asked = signature.bind(*arguments, **named).arguments
        mesh = _mesh or Mesh.alone()
        size = max(mesh.size, int(asked.get("world_size", -1)), int(os.environ.get("WORLD_SIZE", "1")))
        _refuse(asked.get("backend"), size)
        if size > mesh.size:
            raise ClearTrafficError(
                f"PyTorch was asked for {size} processes, and this program runs in {mesh.size}",
                hint='use a job of kind = "torch" with [cluster] workers = ' + str(size),
            )
        asked = {name: asked[name] for name in ("timeout", "device_id") if asked.get(name) is not None}
        _register(module)
        from torch.distributed import HashStore  # nothing is agreed on through it: the mesh stands already

        return made("strongroom", store=HashStore(), rank=mesh.rank, world_size=mesh.size, **asked)

    return init_process_group


def _hold_group(made: Callable[..., Any], module: ModuleType) -> Callable[..., Any]:
    signature = inspect.signature(made)
    del module

    @functools.wraps(made)
    def new_group(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        bound = signature.bind(*arguments, **named)
        _refuse(bound.arguments.get("backend"), (_mesh or Mesh.alone()).size)
        bound.arguments.pop("backend", None)
        return made(*bound.args, **bound.kwargs)

    return new_group


def _register(module: ModuleType) -> None:
    from strongroom.workload.torch.process_group import BACKEND, StrongroomGroup

    def make(options: Any, _: object) -> StrongroomGroup:  # noqa: ANN401  PyTorch's own
        mesh = _mesh or Mesh.alone()
        ranks: Sequence[int] = options.global_ranks_in_group or range(mesh.size)
        return StrongroomGroup(mesh, ranks=ranks, name=str(options.group_id), timeout=options.timeout)

    if BACKEND.upper() not in module.Backend._plugins:
        module.Backend.register_backend(BACKEND, make, extended_api=True, devices=["cpu", "cuda"])


def _refuse(backend: object, size: int) -> None:
    """Raise ClearTrafficError for a backend that would send in the clear between ``size`` processes."""
    named = str(backend or "strongroom").lower()
    if size > 1 and named not in {"strongroom", "undefined", "cpu:strongroom", "cpu:strongroom,cuda:strongroom"}:
        raise ClearTrafficError(
            f"the backend {named!r} would send what {size} workers learn in the clear",
            hint="call init_process_group() without a backend: the job's own is encrypted and authenticated",
        )
