"""Play one worker's part in a program that several run together (spec/3-job.md §10).

Each round it connects with the others, runs the program in a thread that has neither disk nor network, and tells the
driver how it ended. Keys come from the broker; the driver gives only a rank and the others' places.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from strongroom.attestation.channel import AttestedChannel
from strongroom.errors import StrongroomError, UsageError
from strongroom.jobs.spec import JobSpec
from strongroom.policy.fusion import FusedPolicy
from strongroom.workload.boosting.stage import Stage
from strongroom.workload.confinement import confine
from strongroom.workload.embedded_job import EmbeddedJobEngine
from strongroom.workload.ending import describe_defect
from strongroom.workload.handover import encode_failure
from strongroom.workload.inside import Engine, Room
from strongroom.workload.keyring import KeyRing
from strongroom.workload.mesh.links import PeerLostError
from strongroom.workload.mesh.mesh import Mesh, MeshDoor, Proof
from strongroom.workload.mesh.roster import Round
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.program import ProgramError, run_confined

T = TypeVar("T")

_ENDING_SECONDS = 60.0


class StuckError(StrongroomError):
    """A program goes on although its round is over."""


class EnsembleRoom(Room):
    """The room of one rank; which rank writes which output is for the driver to compare."""

    def __init__(self, engine: Engine, *, stage: Stage, **parts: Any) -> None:  # noqa: ANN401
        super().__init__(engine, **parts)
        self._stage = stage

    def xgboost(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called with XGBoost's collective over all workers."""
        return self._stage.xgboost(learn)

    def lightgbm(self, learn: Callable[[], T]) -> T:
        """Return what ``learn`` returns, called with LightGBM's network over all workers."""
        return self._stage.lightgbm(learn)

    def missing(self) -> tuple[str, ...]:
        """Return nothing: another rank may have written what this one has not."""
        return ()


class Part:
    """One worker's part, from its first round to its last."""

    def __init__(
        self,
        *,
        spec: JobSpec,
        job: str,
        ring: KeyRing,
        policy: FusedPolicy,
        directory: Path,
        proof: Proof,
        host: str,
        channel: AttestedChannel,
    ) -> None:
        self._spec = spec
        self._job = job
        self._ring = ring
        self._policy = policy
        self._directory = directory
        self._channel = channel
        self._tee = proof.tee
        self._door = MeshDoor(host, proof=proof)
        self._mesh: Mesh | None = None
        self._playing: threading.Thread | None = None
        self._round = 0

    def play(self, hear: Callable[[], dict[str, Any]]) -> Sequence[str]:
        """Obey the driver until it says stop, and return its reasons; ``hear`` returns what it says next."""
        host, port = self._door.address
        self._channel.send({"type": "mesh", "host": host, "port": port})
        threading.Thread(target=import_torch, name="import-torch", daemon=True).start()
        while True:
            said = hear()
            if said.get("type") == "stop":
                return [str(reason) for reason in said.get("reasons") or ()]
            if said.get("type") == "dissolve":
                if said.get("round") == self._round:
                    self._dissolve()
                continue
            current = Round.decode(said)
            self._dissolve()
            self._round = current.roster.round
            self._playing = threading.Thread(target=self._run, args=(current,), name="round", daemon=True)
            self._playing.start()

    def close(self) -> None:
        """Let go of the other workers; safe to call twice."""
        self._door.close()
        if self._mesh is not None:
            self._mesh.close()

    def _dissolve(self) -> None:
        """End the round that is played, if any: its next collective fails, and the program with it."""
        if self._mesh is not None:
            self._mesh.close()
        if self._playing is not None:
            self._playing.join(_ENDING_SECONDS)
            if self._playing.is_alive():
                raise StuckError(f"the program goes on {_ENDING_SECONDS:.0f} s after its round was over")
        self._mesh = self._playing = None

    def _run(self, current: Round) -> None:
        """Play one round and report its end."""
        report: dict[str, Any]
        mesh: Mesh | None = None
        try:
            mesh = self._mesh = self._door.open(current.roster)
            drafts = self._perform(current, mesh)
            report = {"type": "ended", "drafts": [draft.encode() for draft in drafts]}
        except Exception as error:  # noqa: BLE001  the driver has to hear of whatever went wrong
            trouble = error if isinstance(error, StrongroomError) else describe_defect(error)
            if isinstance(trouble, ProgramError) and mesh is not None:
                trouble = mesh.trouble or trouble
            lost = isinstance(trouble, PeerLostError) or (mesh is not None and mesh.broken)
            report = {**encode_failure(trouble), "lost": lost}
            if mesh is not None:
                mesh.close()  # so that nobody waits for this rank
        with contextlib.suppress(StrongroomError):  # a driver that is gone is noticed by whoever hears it
            self._channel.send({**report, "round": current.roster.round})

    def _perform(self, current: Round, mesh: Mesh) -> list[OutputDraft]:
        import_torch(threads=self._spec.worker_cores)
        from strongroom.workload.torch.checkpoints import Checkpoints
        from strongroom.workload.torch.joining import enter_mesh, leave_mesh

        engine = EmbeddedJobEngine(
            spec=self._spec,
            ring=self._ring,
            policy=self._policy,
            directory=self._directory,
            job=self._job,
            rank=mesh.rank,
            size=mesh.size,
        )
        drafts: list[OutputDraft] = []
        stage = Stage(mesh, tee=self._tee, confine=lambda: confine(engine.writable, keep_signals=True))
        try:
            engine.checkpoint = Checkpoints(
                engine,
                last=None if current.checkpoint is None else OutputDraft.decode(current.checkpoint),
                tell=lambda step, draft: self._channel.send(
                    {"type": "checkpoint", "round": mesh_round, "step": step, "draft": draft.encode()}
                ),
            )
            mesh_round = current.roster.round
            room = EnsembleRoom(
                engine,
                stage=stage,
                inputs=self._spec.inputs,
                outputs=self._spec.outputs,
                purpose=self._spec.purpose,
                on_output=drafts.append,
            )
            enter_mesh(mesh)
            run_confined(current.program, room, writable=engine.writable, keep_tcp=False)
        finally:
            stage.close()
            leave_mesh()
            engine.close()
        return drafts


def import_torch(*, threads: int = 0) -> None:
    """Load PyTorch, held to the mesh, with ``threads`` threads for computing; raise UsageError if it is not there."""
    from strongroom.workload.collectives import guard_collectives

    guard_collectives()
    try:
        import torch
        import torch.distributed  # held to the mesh as it is loaded
    except ImportError as error:
        raise UsageError(
            "PyTorch is not installed where the workers run",
            hint="install the extra `torch` there, or build the workers' image with it",
        ) from error
    if threads:
        torch.set_num_threads(threads)
