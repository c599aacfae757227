"""Save Spark ML models as plain files in the driver's scratch, and load them again; executors write nothing.

Spark's usual writer spreads a model over the executors' file system, which no two workers of a job share. Its local
form holds metadata in JSON and numbers in binary, no serialized objects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from strongroom.errors import EnvelopeError, UsageError

_CLASSES = "org.apache.spark.ml."
_METADATA = "metadata"
_MAX_METADATA = 16 << 20


def is_model(given: object) -> bool:
    """Return whether ``given`` is a model, or a pipeline, that Spark's Java side can write."""
    return hasattr(given, "_to_java") or hasattr(given, "_java_obj")


def save_model(model: Any, directory: Path) -> Path:  # noqa: ANN401  pyspark is not typed here
    """Write ``model`` below the new ``directory`` and return it; raise UsageError if Spark cannot write it so."""
    writer = getattr(model.write(), "_jwrite", None)
    if writer is None:
        raise UsageError(
            f"a {type(model).__name__} with stages written in Python cannot be saved",
            hint="save the stages that are Spark's own",
        )
    writer.saveToLocal(str(directory))
    return directory


def load_model(spark: Any, directory: Path) -> Any:  # noqa: ANN401
    """Return the model in ``directory``; raise EnvelopeError unless every part of it is one of Spark's own classes."""
    from pyspark.ml.wrapper import JavaParams

    kinds = {path.parent: _read_class(path) for path in sorted(directory.rglob(_METADATA)) if path.is_file()}
    if directory not in kinds:
        raise EnvelopeError("these files are no Spark ML model", hint="use room.open(name) for files of other kinds")
    java = getattr(spark._jvm, kinds[directory])
    return JavaParams._from_java(java.read().loadFromLocal(str(directory)))


def _read_class(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            name = str(json.loads(stream.read(_MAX_METADATA))["class"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EnvelopeError(f"{path.parent.name}/{path.name} is not the metadata of a Spark ML model") from error
    # Spark loads the class that is named here by reflection.
    if not name.startswith(_CLASSES) or not all(part.isidentifier() for part in name.split(".")):
        raise EnvelopeError(f"a model of class {name[:200]!r} is not Spark's own, and is not loaded")
    return name
