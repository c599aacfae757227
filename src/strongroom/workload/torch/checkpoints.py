"""Keep how far a training is, encrypted for this job's workers alone, and find it after a loss (spec/3-job.md §10).

The files lie on untrusted storage under a key that the broker gives only to attested workers of this job. Which
checkpoint is the last is what the driver remembers, not what the storage shows, so an older one cannot be slipped in.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.envelope.files import open_files
from strongroom.errors import EnvelopeError, UsageError
from strongroom.statements import Statement, VerifyKey
from strongroom.workload.files import bytes_opener, collect_files
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.parcel import accept, pack_files
from strongroom.workload.torch.tensors import STRUCTURE, TENSORS, put_together, take_apart

if TYPE_CHECKING:
    from strongroom.workload.embedded_job import EmbeddedJobEngine

_PLACE = "checkpoints"
_KEPT = 2


class Checkpoints:
    """What a program knows as ``room.checkpoint``; ``last`` is the checkpoint that the driver says is the last."""

    def __init__(
        self, engine: EmbeddedJobEngine, *, last: OutputDraft | None, tell: Callable[[int, OutputDraft], None]
    ) -> None:
        self._engine = engine
        self._last = last
        self._tell = tell
        self._number = 0 if last is None else accepted(last).version
        self._place = engine.outbox / _PLACE

    def save(self, state: object, *, step: int) -> None:
        """Keep ``state`` as what to begin again with; call it at one rank, say ``if room.rank == 0``.

        ``state`` is a nest of mappings, lists, numbers, texts and tensors, such as ``{"model": model.state_dict(),
        "optimizer": optimizer.state_dict(), "epoch": epoch}``; ``step`` is what progress shows. When this returns, the
        checkpoint is on the storage and the driver has been told.
        """
        if self._engine.rank != 0:
            raise UsageError("a checkpoint is kept by rank 0", hint="write: if room.rank == 0")
        from safetensors.torch import save_file

        text, tensors = take_apart(state)
        self._number += 1
        directory = self._place / f"{self._number:09}-{secrets.token_hex(4)}"
        directory.parent.mkdir(exist_ok=True)
        draft = self._engine.scratch()
        try:
            save_file(tensors, str(draft / TENSORS))
            sources = {**collect_files(draft), STRUCTURE: bytes_opener(text.encode())}
            keys = self._engine.ring.checkpoints(self._number)
            manifest = pack_files(sources, directory, keys, signer=self._engine.signer)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self._last = self._engine.draft(_PLACE, directory, manifest)
        self._tell(step, self._last)
        self._remove_older()

    def load(self) -> Any:  # noqa: ANN401  what was saved
        """Return the state that was kept last, also by a worker that is gone, or None if there is none yet."""
        if self._last is None:
            return None
        from safetensors.torch import load

        manifest = accepted(self._last)
        sealed = open_files(
            Path(self._last.directory), self._engine.ring.checkpoints(manifest.version), manifest=manifest
        )
        with sealed.open(STRUCTURE) as stream:
            text = bytes(stream.readall()).decode()
        with sealed.open(TENSORS) as stream:
            return put_together(text, load(bytes(stream.readall())))

    def _remove_older(self) -> None:
        """Remove all but the last two: the driver may have heard of either."""
        with contextlib.suppress(OSError):
            for directory in sorted(self._place.iterdir())[:-_KEPT]:
                shutil.rmtree(directory, ignore_errors=True)


def accepted(draft: OutputDraft) -> Any:  # noqa: ANN401  a Manifest
    """Return the manifest of a checkpoint that the driver named; raise EnvelopeError if it is of anything else."""
    statement = Statement.decode(draft.manifest)
    manifest = accept(draft.manifest, signer=VerifyKey(statement.signer))
    if manifest.dataset != "checkpoint" or manifest.kind != "files":
        raise EnvelopeError("the driver named something that is not a checkpoint")
    return manifest
