"""Keep the traffic of distributed training off the wire where a library would send it in the clear (spec/3-job.md §9).

XGBoost's collective, LightGBM's network and PyTorch's gloo speak plain TCP between workers. Inside a job they are told
so when they are asked for more than one worker; with one, they open no connection at all. Jobs of kind ``torch`` have
the mesh instead: PyTorch by its backend, XGBoost and LightGBM by ``room.xgboost`` and ``room.lightgbm``.
Beneath that, the kernel lets neither Python programs nor Spark's Python workers open TCP connections (confinement.py).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

from strongroom.errors import UsageError


class ClearTrafficError(UsageError):
    """A library was asked to train on several workers, between which it would send gradients in the clear."""


def guard_collectives() -> None:
    """From now on, hold XGBoost, LightGBM and PyTorch in this process to what is protected; safe to call twice."""
    if not any(isinstance(finder, _Guard) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Guard())
    for name in _HELD:
        module = sys.modules.get(name)
        if module is not None and not _is_loading(module):  # what another thread is loading is held when it is there
            _hold(module)


def _refuse(library: str, workers: int) -> None:
    if workers > 1:
        raise ClearTrafficError(
            f"{library} was asked for {workers} workers, between which it sends what it learns in the clear",
            hint='use one worker, to which Spark brings the rows; or a job of kind = "torch" and room.'
            + library.lower(),
        )


def _hold_tracker(module: ModuleType) -> None:
    made = module.RabitTracker.__init__

    @functools.wraps(made)
    def guarded(self: Any, n_workers: int, *arguments: Any, **more: Any) -> None:  # noqa: ANN401  as xgboost has it
        _refuse("XGBoost", n_workers)
        made(self, n_workers, *arguments, **more)

    module.RabitTracker.__init__ = guarded


def _hold_spark(module: ModuleType) -> None:
    module._get_rabit_args = no_tracker  # type: ignore[attr-defined]
    module.CommunicatorContext = Alone  # type: ignore[attr-defined]


def no_tracker(_configuration: object, n_workers: int) -> dict[str, Any]:
    """Return the settings of a collective of one worker, which needs no tracker and opens no connection."""
    _refuse("XGBoost", n_workers)
    return {}


class Alone:
    """Stands where XGBoost on Spark would connect a worker with the others; executors import it from here."""

    def __init__(self, context: object, **settings: object) -> None:
        self._settings = settings
        del context

    def __enter__(self) -> dict[str, object]:
        return self._settings

    def __exit__(self, *_: object) -> None:
        """There is nothing to leave."""


def _hold_prints(module: ModuleType) -> None:
    """Print here what XGBoost would have its tracker print: the tracker is gone when a program runs."""

    def communicator_print(msg: object) -> None:
        sys.stdout.write(f"{str(msg).strip()}\n")

    module.communicator_print = communicator_print  # type: ignore[attr-defined]


def _hold_network(module: ModuleType) -> None:
    connect = module.Booster.set_network

    @functools.wraps(connect)
    def guarded(
        self: Any,  # noqa: ANN401  as lightgbm has it
        machines: Any,  # noqa: ANN401
        local_listen_port: int = 12400,
        listen_time_out: int = 120,
        num_machines: int = 1,
    ) -> Any:  # noqa: ANN401
        listed = machines.split(",") if isinstance(machines, str) else machines
        _refuse("LightGBM", max(num_machines, len(listed)))
        return connect(self, machines, local_listen_port, listen_time_out, num_machines)

    module.Booster.set_network = guarded


def _hold_torch(module: ModuleType) -> None:
    from strongroom.workload.torch.joining import hold_distributed

    hold_distributed(module)


_HELD: Final[Mapping[str, Callable[[ModuleType], None]]] = {
    "xgboost.collective": _hold_prints,
    "xgboost.tracker": _hold_tracker,
    "xgboost.spark.core": _hold_spark,
    "lightgbm.basic": _hold_network,
    "torch.distributed.distributed_c10d": _hold_torch,
}
_MARK: Final = "__held_to_one_worker__"


def _is_loading(module: ModuleType) -> bool:
    """Return whether ``module`` is being loaded, and so has not all its names yet (importlib's own mark)."""
    return bool(getattr(module.__spec__, "_initializing", False))


def _hold(module: ModuleType) -> None:
    """Hold a loaded module, once."""
    if not hasattr(module, _MARK):
        _HELD[module.__name__](module)
        setattr(module, _MARK, True)


class _Guard(MetaPathFinder):
    """Finds the modules of :data:`_HELD` where they are, and holds each as soon as it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's own specification with a loader that holds it afterwards."""
        if fullname not in _HELD:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Holding(spec.loader)
        return spec


class _Holding(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _hold(module)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._loader, name)
