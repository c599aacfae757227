"""Be the torch.distributed backend ``strongroom``: PyTorch's collectives over the mesh (spec/3-job.md §10).

PyTorch calls these methods from Python and from DDP's reducer in C++. Collectives run in a thread of the group, in
the order in which they were called, while the program goes on computing gradients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist

from strongroom.errors import UsageError
from strongroom.workload.mesh.mesh import Mesh
from strongroom.workload.torch.collectives import Group

BACKEND = "strongroom"
_LAST_SECONDS = 10.0

Tensors = list[torch.Tensor]


class StrongroomWork(dist._Work):  # type: ignore[misc]  # torch has no types here
    """A call that is waited for in Python by :meth:`wait`, in C++ (DDP's reducer) by its future."""

    def __init__(self, call: Callable[[], Tensors], *, devices: Sequence[torch.device]) -> None:
        super().__init__()
        self._call: Callable[[], Tensors] | None = call
        self._error: Exception | None = None
        # What the caller has asked of a GPU may not have been computed yet; what this copies back there is waited for
        # by whoever waits for a future that knows the device.
        self._ready = [torch.cuda.current_stream(one).record_event() for one in devices]
        self._begin: torch.futures.Future = torch.futures.Future(devices=list(devices) or None)
        # What fails in a callback is an error in C++ too; a future's set_exception is one in Python alone.
        self._future = self._begin.then(lambda _: self._perform())

    def run(self) -> None:
        """Do what is to be done, in this thread."""
        self._begin.set_result(None)

    def wait(self, timeout: Any = None) -> bool:  # noqa: ANN401  the group's own deadline holds
        """Wait until it is done, and raise what went wrong."""
        del timeout
        try:
            self._future.wait()
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise
        return True

    def get_future(self) -> torch.futures.Future:
        """Return the future of its tensors."""
        return self._future

    def is_completed(self) -> bool:
        """Return whether it is done."""
        return bool(self._future.done())

    def result(self) -> Tensors:
        """Return its tensors."""
        return list(self._future.wait())

    def _perform(self) -> Tensors:
        call, self._call = self._call, None  # which holds tensors
        try:
            for event in self._ready:
                event.synchronize()
            with torch.no_grad():
                return call() if call is not None else []
        except Exception as error:
            self._error = error
            raise


class StrongroomGroup(dist.ProcessGroup):  # type: ignore[misc]  # torch has no types here
    """A process group whose traffic is encrypted and authenticated between attested workers."""

    def __init__(self, mesh: Mesh, *, ranks: Sequence[int], name: str, timeout: timedelta) -> None:
        self._mesh = mesh
        self._group = Group(mesh, ranks=ranks, name=name, deadline=timeout.total_seconds())
        super().__init__(self._group.rank, self._group.size)
        self._calls: SimpleQueue[StrongroomWork | None] = SimpleQueue()
        self._label = name
        self._thread = threading.Thread(target=_work, args=(self._calls,), name=f"collectives-{name}", daemon=True)
        self._thread.start()

    def getBackendName(self) -> str:  # noqa: N802  PyTorch's name
        """Return the backend's name."""
        return BACKEND

    @property
    def pg_name(self) -> str:
        """Return the name under which PyTorch knows this group."""
        return str(dist.distributed_c10d._world.pg_names.get(self, self._label))

    @property
    def group_name(self) -> str:
        """Return the same."""
        return self.pg_name

    def allreduce(self, tensors: Tensors, opts: Any = None) -> Any:  # noqa: ANN401  as PyTorch calls it
        """Combine each tensor over all ranks, in place."""
        op = _name(opts)
        return self._run(tensors, lambda one: self._group.all_reduce(one, op))

    def allreduce_coalesced(self, tensors: Tensors, opts: Any = None) -> Any:  # noqa: ANN401
        """Combine each tensor over all ranks, in place."""
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: Tensors, opts: Any) -> Any:  # noqa: ANN401
        """Combine each tensor over all ranks; only the root's is said to hold the result."""
        return self.allreduce(tensors, opts)

    def broadcast(self, tensors: Tensors, opts: Any = None) -> Any:  # noqa: ANN401
        """Copy each tensor of the root to every rank."""
        root = opts.rootRank if opts is not None else 0
        return self._run(tensors, lambda one: self._group.broadcast(one, root=root))

    def allgather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> Any:  # noqa: ANN401
        """Fill each list of outputs with one input of every rank."""
        del opts

        def gather() -> Tensors:
            for parts, given in zip(outputs, inputs, strict=True):
                parts[self._group.rank].copy_(given)
                with _Hosted(parts) as hosted:
                    self._group.all_gather(hosted)
            return [one for parts in outputs for one in parts]

        return self._submit(gather, outputs, inputs)

    def allgather_coalesced(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> Any:  # noqa: ANN401
        """Fill outputs, one list for each rank, with every rank's inputs."""
        return self.allgather([list(parts) for parts in zip(*outputs, strict=True)], inputs, opts)

    def all_gather_single(self, output: torch.Tensor, given: torch.Tensor, opts: Any = None) -> Any:  # noqa: ANN401
        """Fill one tensor with the inputs of all ranks, one after the other."""
        return self.allgather([_cut(output, self._group.size)], [given.reshape(-1)], opts)

    def reduce_scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any = None) -> Any:  # noqa: ANN401
        """Combine lists of inputs over all ranks, and keep one's own part of each."""
        op = _name(opts)

        def scatter() -> Tensors:
            for output, parts in zip(outputs, inputs, strict=True):
                hosted = [part.detach().to("cpu", copy=True).contiguous() for part in parts]
                self._group.reduce_scatter(hosted, op)
                output.copy_(hosted[self._group.rank])
            return outputs

        return self._submit(scatter, outputs, inputs)

    def reduce_scatter_single(self, output: torch.Tensor, given: torch.Tensor, opts: Any = None) -> Any:  # noqa: ANN401
        """Combine one tensor over all ranks, and keep one's own part."""
        return self.reduce_scatter([output.reshape(-1)], [_cut(given, self._group.size)], opts)

    def gather(self, outputs: list[Tensors], inputs: Tensors, opts: Any) -> Any:  # noqa: ANN401
        """Fill the root's list of outputs with one input of every rank."""

        def gather() -> Tensors:
            for index, given in enumerate(inputs):
                parts = outputs[index] if outputs else []
                with _Hosted([given]) as (hosted,), _Hosted(parts) as into:
                    self._group.gather(hosted, into, root=opts.rootRank)
            return [one for parts in outputs for one in parts]

        return self._submit(gather, outputs, inputs)

    def scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any) -> Any:  # noqa: ANN401
        """Fill every rank's output from the root's list of inputs."""

        def scatter() -> Tensors:
            for index, output in enumerate(outputs):
                parts = inputs[index] if inputs else []
                with _Hosted([output]) as (into,), _Hosted(parts) as hosted:
                    self._group.scatter(into, hosted, root=opts.rootRank)
            return outputs

        return self._submit(scatter, outputs, inputs)

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> Any:  # noqa: ANN401
        """Send each rank its input and take one output from each."""
        del opts

        def exchange() -> Tensors:
            with _Hosted(outputs) as into, _Hosted(inputs) as hosted:
                self._group.all_to_all(into, hosted)
            return outputs

        return self._submit(exchange, outputs, inputs)

    def all_to_all_single(
        self,
        output: torch.Tensor,
        given: torch.Tensor,
        output_sizes: list[int],
        input_sizes: list[int],
        opts: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Send each rank its rows of one tensor and take rows of another from each."""
        into = list(output.split(output_sizes)) if output_sizes else list(output.chunk(self._group.size))
        parts = list(given.split(input_sizes)) if input_sizes else list(given.chunk(self._group.size))
        return self.alltoall(into, parts, opts)

    def barrier(self, opts: Any = None) -> Any:  # noqa: ANN401
        """Wait until every rank is here."""
        del opts
        return self.allreduce([torch.zeros(1)])

    def send(self, tensors: Tensors, to: int, tag: int) -> Any:  # noqa: ANN401
        """Send a tensor to one rank."""
        (tensor,) = tensors
        host = tensor.detach().to("cpu").contiguous()
        sent = self._group.post(host, to=to, tag=tag)
        return self._beside(lambda: self._group.settle(sent), tensors)

    def recv(self, tensors: Tensors, source: int, tag: int) -> Any:  # noqa: ANN401
        """Take a tensor from one rank."""

        def receive() -> None:
            with _Hosted(tensors) as (hosted,):
                self._group.receive(hosted, source=source, tag=tag)

        return self._beside(receive, tensors)

    def recv_anysource(self, tensors: Tensors, tag: int) -> Any:  # noqa: ANN401
        """Refuse: a tensor is always taken from a rank that is named."""
        del tensors, tag
        raise UsageError("a tensor is received from a rank that is named", hint="give recv(tensor, src=RANK)")

    def shutdown(self) -> None:
        """End the group's thread; safe to call twice."""
        self._calls.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_LAST_SECONDS)

    abort = shutdown
    # The names of the same methods before PyTorch 2.13.
    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single
    alltoall_base = all_to_all_single

    def _run(self, tensors: Tensors, act: Callable[[torch.Tensor], None]) -> Any:  # noqa: ANN401
        def run() -> Tensors:
            with _Hosted(tensors) as hosted:
                for one in hosted:
                    act(one)
            return tensors

        return self._submit(run, tensors)

    def _beside(self, call: Callable[[], object], tensors: Tensors) -> Any:  # noqa: ANN401  a torch Work
        """Run ``call`` in a thread of its own: what it waits for may come after later collectives."""

        def done() -> Tensors:
            call()
            return tensors

        work = StrongroomWork(self._mesh.noting(done), devices=_gpus(tensors))
        threading.Thread(target=work.run, name="point-to-point", daemon=True).start()
        return work

    def _submit(self, call: Callable[[], Tensors], *given: Sequence[Any]) -> Any:  # noqa: ANN401  a torch Work
        work = StrongroomWork(self._mesh.noting(call), devices=_gpus(*given))
        self._calls.put(work)
        return work


class _Hosted:
    """Tensors as contiguous ones of the CPU without gradients: themselves where they are, copied back where not."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._given = [one.detach() for one in tensors]
        self._hosted = [one.to("cpu").contiguous() for one in self._given]

    def __enter__(self) -> Tensors:
        return self._hosted

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for given, hosted in zip(self._given, self._hosted, strict=True):
                if given.data_ptr() != hosted.data_ptr():
                    given.copy_(hosted)


def _gpus(*given: Sequence[Any]) -> list[torch.device]:
    """Return the GPUs on which tensors in (lists of) ``given`` lie."""
    flat = [one for some in given for each in some for one in (each if isinstance(each, list | tuple) else (each,))]
    return sorted({one.device for one in flat if one.is_cuda}, key=lambda device: int(device.index))


def _work(calls: SimpleQueue[StrongroomWork | None]) -> None:
    """Do what is called, one after the other, until there is nothing more."""
    while (work := calls.get()) is not None:
        work.run()
        del work


def _name(opts: Any) -> str:  # noqa: ANN401
    if opts is None:
        return "SUM"
    op = opts.reduceOp
    return str(getattr(op, "op", op)).rpartition(".")[2]


def _cut(tensor: torch.Tensor, count: int) -> Tensors:
    """Return a contiguous tensor in ``count`` equal flat parts."""
    if not tensor.is_contiguous() or tensor.numel() % count:
        raise UsageError(f"a tensor for {count} ranks must be contiguous, with a multiple of {count} elements")
    return list(tensor.view(-1).chunk(count)) if tensor.numel() else [tensor.view(-1)] * count
