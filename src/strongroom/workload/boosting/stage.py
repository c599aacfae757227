"""Have a confined program learn with XGBoost or LightGBM on all workers of its job (spec/3-job.md §10)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from strongroom.attestation.tee import Tee
from strongroom.errors import UsageError
from strongroom.workload.boosting.lightgbm import Network
from strongroom.workload.boosting.xgboost import Collective
from strongroom.workload.mesh.mesh import Mesh

T = TypeVar("T")


class EnclaveLoopbackError(UsageError):
    """XGBoost was to speak over loopback where loopback is the host's."""


class Stage:
    """One rank's part in every collective that its program asks for; make it where TCP is not denied."""

    def __init__(self, mesh: Mesh, *, tee: Tee, confine: Callable[[], object]) -> None:
        self._mesh = mesh
        self._enclave = tee.tee == "sgx" and not tee.simulated
        self._collective = Collective(mesh, confine=confine)
        self._network = Network(mesh)
        self._outside = ThreadPoolExecutor(1, thread_name_prefix="boosting")
        self._outside.submit(int).result()  # its one thread is made now: the kernel denies TCP to a program's threads

    def xgboost(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called in a thread in which XGBoost's collective has all ranks."""
        if self._mesh.size == 1:
            return learn()
        if self._enclave:
            raise EnclaveLoopbackError(
                "an SGX enclave's loopback connections pass through the host's kernel, and XGBoost needs them",
                hint="use TEEs that are whole virtual machines (TDX, SEV-SNP), room.lightgbm, or one worker",
            )
        return self._outside.submit(self._collective.run, learn).result()

    def lightgbm(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called while LightGBM's network has all ranks."""
        return learn() if self._mesh.size == 1 else self._network.run(learn)

    def close(self) -> None:
        """Take no more calls; safe to call twice."""
        self._outside.shutdown(wait=False)
