"""Write a model's card: what it was made from, by which program, under which policies (spec/3-job.md §9).

The driver fills it in from what it knows, egress compares it with what it knows itself, and its digest stands in the
ledger. What the program says about its model is kept apart, for nobody has verified it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Self

from strongroom.errors import EnvelopeError, UsageError
from strongroom.jobs.spec import JobSpec
from strongroom.policy.fusion import FusedPolicy
from strongroom.statements import canonical_json

CARD_FILE = "model-card.json"
_VERSION = 1
_MAX_BYTES = 1 << 20
_LIBRARIES = {
    "lightgbm": "lightgbm",
    "numpy": "numpy",
    "pandas": "pandas",
    "polars": "polars",
    "pyarrow": "pyarrow",
    "pyspark": "pyspark",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "xgboost": "xgboost-cpu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model's card; ``lineage`` is what was verified, ``said`` what the program says of its model."""

    lineage: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    made_with: Mapping[str, str]
    said: Mapping[str, Any]

    def encode(self) -> bytes:
        """Return the card as canonical JSON; raise UsageError if the program's part is none, or too long."""
        document = {
            "model_card": _VERSION,
            "lineage": self.lineage,
            "files": self.files,
            "made_with": self.made_with,
            "said": self.said,
        }
        try:
            text = canonical_json(document)
        except Exception as error:
            raise UsageError(
                "a model's card holds what JSON can: texts, numbers, lists and tables",
                hint="convert NumPy numbers with float() or int()",
            ) from error
        if len(text) > _MAX_BYTES:
            raise UsageError(f"a model's card has at most {_MAX_BYTES} bytes, got {len(text)}")
        return text

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a card; raise EnvelopeError if it is none."""
        try:
            document = json.loads(data) if len(data) <= _MAX_BYTES else None
        except (ValueError, RecursionError) as error:
            raise EnvelopeError(f"{CARD_FILE} is not JSON") from error
        parts = ("lineage", "files", "made_with", "said")
        if (
            not isinstance(document, dict)
            or set(document) != {"model_card", *parts}
            or document["model_card"] != _VERSION
            or not all(isinstance(document[part], dict) for part in parts)
        ):
            raise EnvelopeError(f"{CARD_FILE} is not a model's card of version {_VERSION}")
        return cls(**{part: document[part] for part in parts})

    @property
    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the card's file, as the ledger names it."""
        return f"sha256:{hashlib.sha256(self.encode()).hexdigest()}"


def trace_lineage(
    spec: JobSpec, policy: FusedPolicy, *, output: str, job: str, versions: Mapping[str, int]
) -> dict[str, Any]:
    """Return what ``output`` is made from: the job, its program, its data with their versions, and the policies."""
    return {
        "output": output,
        "job": job,
        "name": spec.name,
        "kind": spec.kind,
        "purpose": spec.purpose,
        "analyst": str(spec.analyst),
        "program": spec.program_digest,
        "policy": policy.digest,
        "policies": list(policy.policies),
        "data": {
            name: {"owner": str(given.owner), "version": versions[name], "columns": list(given.columns)}
            for name, given in spec.inputs.items()
        },
    }


def loaded_libraries() -> dict[str, str]:
    """Return the versions of the libraries of data science that this process has loaded."""
    found = {}
    for module, distribution in _LIBRARIES.items():
        if module in sys.modules:
            try:
                found[module] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                found[module] = str(getattr(sys.modules[module], "__version__", "unknown"))
    return found
