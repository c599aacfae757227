"""Publish the JSON Schemas of jobs (spec/schemas/job-1.json, signed-job-1.json); a test keeps the files true.

``python -m strongroom.jobs.schema`` prints the one of what analysts write, ``... signed`` that of what they sign.
"""

from __future__ import annotations

import json
import sys

from strongroom.jobs.form import JobForm, SignedJobForm
from strongroom.policy.form import Form


def job_schema() -> str:
    """Return the JSON Schema (draft 2020-12) of a job as it is written, as the text that is published."""
    return _publish(JobForm)


def signed_job_schema() -> str:
    """Return the JSON Schema (draft 2020-12) of a job as it is signed, as the text that is published."""
    return _publish(SignedJobForm)


def _publish(form: type[Form]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **form.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(signed_job_schema() if sys.argv[1:] == ["signed"] else job_schema())
