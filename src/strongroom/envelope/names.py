"""Parse the names that key ids are made of (spec/1-encrypted-dataset.md §2).

A dataset name, a version and a column name end up inside Parquet's key configuration text, so everything that could
break out of it is refused here, at the door. This module never repairs a name.
"""

from __future__ import annotations

import re

from strongroom.errors import EnvelopeError

OUTPUT_PREFIX = "output."
MAX_VERSION = (1 << 53) - 1
_OWNED = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_COLUMN_BYTES = 255
_RESERVED = ":;,"


class BadNameError(EnvelopeError):
    """A dataset, version or column name cannot be part of a key id."""


def parse_dataset(name: str) -> str:
    """Return ``name`` if it can name a dataset; raise BadNameError otherwise."""
    if not isinstance(name, str) or _DATASET.fullmatch(name) is None:
        raise BadNameError(
            f"not a dataset name: {str(name)[:80]!r}",
            hint="use 1 to 128 letters, digits, dots, dashes or underscores, starting with a letter or digit",
        )
    return name


def parse_owned_dataset(name: str) -> str:
    """Return ``name`` if an owner may call a dataset so, and policies and jobs can; raise BadNameError otherwise.

    So no owner's dataset is called ``output.NAME``, as a job's output NAME is on its way to egress.
    """
    if not isinstance(name, str) or _OWNED.fullmatch(name) is None:
        raise BadNameError(
            f"no policy could name a dataset {str(name)[:80]!r}",
            hint="use 1 to 63 of a-z, 0-9, - and _, starting with a letter",
        )
    return name


def parse_version(version: int) -> int:
    """Return ``version`` if it is a whole number from 1 to 2^53 - 1; raise BadNameError otherwise."""
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise BadNameError(f"not a dataset version: {str(version)[:40]!r}", hint="versions are 1, 2, 3, ...")
    return version


def parse_column(name: str) -> str:
    """Return ``name`` if it can name a column; raise BadNameError otherwise.

    Parquet's key tools write columns as ``id:a,b;id:c`` and trim spaces, so those characters cannot be expressed.
    """
    bad = (
        not isinstance(name, str)
        or not name
        or name != name.strip()
        or any(c in _RESERVED or not c.isprintable() for c in name)
        or len(name.encode("utf-8", "surrogatepass")) > _MAX_COLUMN_BYTES
    )
    if bad:
        raise BadNameError(
            f"column name {str(name)[:80]!r} cannot be encrypted under its own key",
            hint="rename it: 1 to 255 bytes, no comma, colon, semicolon or control character, no space at either end",
        )
    return name


def footer_key_id(dataset: str, version: int) -> str:
    """Return the master key id of every Parquet footer of this dataset version."""
    return f"{parse_dataset(dataset)}@{parse_version(version)}/footer"


def column_key_id(dataset: str, version: int, column: str) -> str:
    """Return the master key id of one column of this dataset version."""
    return f"{parse_dataset(dataset)}@{parse_version(version)}/column/{parse_column(column)}"


def files_key_id(dataset: str, version: int) -> str:
    """Return the id of the key that opens the segmented files of this dataset version."""
    return f"{parse_dataset(dataset)}@{parse_version(version)}/files"
