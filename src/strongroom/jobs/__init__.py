"""What an analyst asks to run: the signed job (``jobs.spec``) and, apart from it, the launchers that place it.

Start at ``load_job`` and ``sign_job``; the other side starts at ``verify_job``. The launchers are not exported here:
what runs inside a TEE imports this room and must not reach them. See spec/3-job.md.
"""

from strongroom.jobs.spec import (
    JobDraft,
    JobError,
    JobInput,
    JobOutput,
    JobSpec,
    SignedJob,
    draft_job,
    job_digest,
    load_job,
    sign_job,
    verify_job,
    verify_spec,
)
from strongroom.jobs.template import job_template

__all__ = [
    "JobDraft",
    "JobError",
    "JobInput",
    "JobOutput",
    "JobSpec",
    "SignedJob",
    "draft_job",
    "job_digest",
    "job_template",
    "load_job",
    "sign_job",
    "verify_job",
    "verify_spec",
]
