"""The published JSON Schemas are what the code accepts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from strongroom.jobs.schema import job_schema, signed_job_schema
from strongroom.policy.schema import policy_schema

SCHEMAS = Path(__file__).parents[3] / "spec" / "schemas"
PUBLISHED = {"policy-1.json": policy_schema, "job-1.json": job_schema, "signed-job-1.json": signed_job_schema}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schema_is_the_generated_one(name: str) -> None:
    published = (SCHEMAS / name).read_text()
    assert published == PUBLISHED[name](), f"regenerate spec/schemas/{name} (see its module's docstring)"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schema_is_a_schema_and_closed_to_unknown_keys(name: str) -> None:
    schema = json.loads((SCHEMAS / name).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    tables = [schema, *schema["$defs"].values()]
    assert all(table["additionalProperties"] is False for table in tables)
    assert not jsonschema.Draft202012Validator(schema).is_valid({"unknown": 1})


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_is_described(name: str) -> None:
    schema = json.loads((SCHEMAS / name).read_text())
    for table in [schema, *schema["$defs"].values()]:
        for key, field in table["properties"].items():
            assert field.get("description"), f"{name}: {key} has no description"
