"""Where ``strongroom fetch`` finds a job and its encrypted output: here, at a path that was named, or on a cluster."""

from __future__ import annotations

import contextlib
import hmac
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.errors import EvidenceError, UsageError

if TYPE_CHECKING:
    from strongroom.cli.screen import Screen
    from strongroom.parties.home import FinishedJob, Home


def recall_anywhere(place: Home, job: str, *, settings: Path | None, broker: str | None) -> FinishedJob:
    """Return the job as this home remembers it, or else as the cluster's history tells of it.

    What the cluster says is held to the job's name there, which ends with a digest of the job's digest.
    """
    from strongroom.cli.placing import open_board
    from strongroom.jobs.launch.kubernetes.manifests import name_suffix
    from strongroom.parties.home import FinishedJob

    if settings is None or place.knows_job(job):
        return place.recall_job(job)
    found = open_board(settings).history(job)
    if not hmac.compare_digest(found.name.rpartition("-")[2].encode(), name_suffix(found.digest).encode()):
        raise EvidenceError(
            f"the cluster shows another digest for job {found.name} than its name says",
            step="job digest",
            hint="somebody changed the job's history; fetch from the home that submitted it",
        )
    outputs = {str(name): None for name in found.about.get("outputs", ())}
    placed = {"name": found.name, "settings": str(settings)}
    return FinishedJob(
        job=found.name, digest=found.digest, broker=place.broker(broker).url, outputs=outputs, placed=placed
    )


@contextlib.contextmanager
def locate_output(
    screen: Screen, known: FinishedJob, output: str, *, given: Path | None, settings: Path | None
) -> Iterator[Callable[[str], Path]]:
    """Yield a function that takes where egress left the output, as the job saw it, and returns where it lies here.

    What is brought from a cluster is ciphertext, and is gone from this machine afterwards.
    """
    from strongroom.envelope.manifest import MANIFEST_FILE

    remembered = known.outputs[output]
    with tempfile.TemporaryDirectory(prefix="strongroom-fetch-") as folder:

        def locate(left_at: str) -> Path:
            for here in (given, remembered, Path(left_at)):
                if here is not None and (here == given or (here / MANIFEST_FILE).is_file()):
                    return here
            chosen = settings or (Path(known.placed["settings"]) if "settings" in known.placed else None)
            if chosen is None:
                raise UsageError(
                    f"the encrypted output is not at {left_at}",
                    hint="say where it was moved to with --from, or on which cluster it lies with --settings",
                )
            return _bring(screen, chosen, name=known.placed.get("name", ""), left_at=left_at, target=Path(folder))

        yield locate


def _bring(screen: Screen, settings: Path, *, name: str, left_at: str, target: Path) -> Path:
    from strongroom.jobs.launch.kubernetes import KubernetesHost, load_settings
    from strongroom.jobs.launch.kubernetes.carrying import carry

    if not settings.is_file():
        raise UsageError(f"the cluster's settings {settings} are not there any more", hint="name them: --settings FILE")
    host = KubernetesHost.open(load_settings(settings))
    screen.say(f"bringing the encrypted output from the cluster's {left_at}")
    with screen.progress("ciphertext") as progress:
        carry(
            host.cluster,
            settings=host.settings,
            job=name,
            directory=left_at,
            target=target / "output",
            on_bytes=progress,
        )
    return target / "output"
