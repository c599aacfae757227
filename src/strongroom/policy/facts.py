"""The plain values that a policy rules on (spec/2-policy.md §4).

The broker fills them in from verified things only: the attestation result, the signed job, its own ledger. Nothing here
is taken from a request as it came.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.statements import PartyId

JOB_KINDS = ("sql", "spark", "python", "serve", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One request for one dataset's keys, as verified at this moment.

    ``columns`` are the names asked for, resolved against the manifest; none at all, or ``"*"``, asks for the whole
    dataset. ``recipients`` are those of all outputs of the job. ``uses`` counts the jobs that have opened the dataset
    so far; ``first_use`` says that this job is not yet among them.
    """

    dataset: str
    purpose: str
    analyst: PartyId
    kind: str
    program: str
    role: str
    tier: str
    simulated: bool
    tee: str
    measurement: str
    tcb_status: str
    advisories: tuple[str, ...]
    columns: tuple[str, ...]
    recipients: tuple[PartyId, ...]
    uses: int
    revoked: bool
    first_use: bool
