"""Publish the JSON Schema of the data-use policy (spec/schemas/policy-1.json); a test keeps the file true.

``python -m strongroom.policy.schema`` prints it.
"""

from __future__ import annotations

import json
import sys

from strongroom.policy.form import PolicyForm


def policy_schema() -> str:
    """Return the JSON Schema (draft 2020-12) of a policy document, as the text that is published."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **PolicyForm.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(policy_schema())
