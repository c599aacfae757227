"""Check an output of files before any of it may leave: names, formats, size and the model card (spec/4-release.md §8).

Nothing is trusted because the driver looked at it: every byte is authenticated and judged here once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from strongroom.broker.client import Release as Keys
from strongroom.envelope.files import Opener, SealedFiles, open_files, verify_name
from strongroom.envelope.keys import DatasetKeys
from strongroom.envelope.manifest import Manifest
from strongroom.errors import EnvelopeError
from strongroom.jobs.spec import JobSpec
from strongroom.workload.card import CARD_FILE, ModelCard, trace_lineage
from strongroom.workload.files import describe
from strongroom.workload.formats import refuse_files
from strongroom.workload.keyring import output_dataset
from strongroom.workload.outbox import OutputDraft

_MAX_CARD = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFiles:
    """An output's files, how to open them, the digest of their model card, and every problem found."""

    sources: Mapping[str, Opener]
    bytes: int
    card: str
    problems: tuple[str, ...]


def check_files(draft: OutputDraft, manifest: Manifest, spec: JobSpec, release: Keys, *, job: str) -> CheckedFiles:
    """Open the files of ``draft`` and return them with what is wrong with them."""
    keys = DatasetKeys.for_files(release.output, dataset=output_dataset(draft.name), version=1)
    sealed = open_files(Path(draft.directory), keys, manifest=manifest)
    sources = {verify_name(name): _opener(sealed, name) for name in sealed}
    size = sum(sealed[name] for name in sealed)
    if release.policy.files is None or size > release.policy.files.max_bytes + _MAX_CARD:
        return CheckedFiles(sources=sources, bytes=size, card="", problems=())  # refused anyway, and not worth reading
    card, problems = _check_card(draft.name, sources, spec, release, job=job)
    return CheckedFiles(sources=sources, bytes=size, card=card, problems=(*refuse_files(sources), *problems))


def _check_card(
    output: str, sources: Mapping[str, Opener], spec: JobSpec, release: Keys, *, job: str
) -> tuple[str, tuple[str, ...]]:
    """Return the card's digest and what is wrong with the card."""
    if CARD_FILE not in sources:
        return "", (f"it has no {CARD_FILE}",)
    with sources[CARD_FILE]() as stream:
        text = stream.read(_MAX_CARD + 1)
    try:
        card = ModelCard.decode(text)
    except EnvelopeError as error:
        return "", (error.message,)
    data = card.lineage.get("data")
    # Egress has no key of an input, so it does not know their versions; the broker writes those it released.
    versions = {name: one.get("version") for name, one in data.items()} if isinstance(data, dict) else {}
    problems = []
    if set(versions) != set(spec.inputs) or not all(isinstance(one, int) for one in versions.values()):
        problems.append(f"its {CARD_FILE} does not name the inputs of this job with their versions")
    elif dict(card.lineage) != trace_lineage(spec, release.policy, output=output, job=job, versions=versions):
        problems.append(f"its {CARD_FILE} tells of another job, program or policy")
    rest = {name: opened for name, opened in sources.items() if name != CARD_FILE}
    if dict(card.files) != describe(rest):
        problems.append(f"its {CARD_FILE} tells of other files")
    return card.digest, tuple(problems)


def _opener(sealed: SealedFiles, name: str) -> Opener:
    return lambda: sealed.open(name)  # type: ignore[return-value]  # a raw file is one, though not in typeshed
