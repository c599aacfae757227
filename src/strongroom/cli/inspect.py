"""``strongroom inspect``: say what a file is and what it claims."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import verb

_WIDE = 200


@verb(
    examples=(
        "strongroom inspect quote.bin",
        "strongroom inspect encrypted/flights",
        "strongroom inspect policy.signed.json --json",
    )
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
def inspect(screen: Screen, *, path: Path) -> None:
    """Say what a file is and what it claims.

    Knows quotes, reports, evidence, attestation tokens, RA-TLS and other certificates, boot event logs, collateral,
    signed documents, checkpoints, dataset directories, copies of a ledger, and policies and jobs in TOML, by their
    content. It shows claims and proves none: `attest verify`, `attest token` and `audit` do.
    """
    from strongroom.parties.inspection import inspect_path

    found = inspect_path(path)
    screen.result({"kind": found.kind, **found.facts}, text=(found.kind, *_lines(found.facts, "  ")))


def _lines(value: Any, indent: str) -> Iterator[str]:  # noqa: ANN401  plain JSON
    if isinstance(value, list):
        value = dict(enumerate(value))
    widest = max((len(str(name)) for name in value), default=0)
    for name, one in value.items():
        if isinstance(one, dict) or (isinstance(one, list) and any(isinstance(part, dict) for part in one)):
            yield f"{indent}{name}"
            yield from _lines(one, indent + "  ")
        elif isinstance(one, list) and sum(len(str(part)) for part in one) > _WIDE:
            yield f"{indent}{name}"
            yield from (f"{indent}  {part!s}" for part in one)
        elif isinstance(one, list):
            yield f"{indent}{name!s:{widest}}  {', '.join(map(str, one))}"
        else:
            yield f"{indent}{name!s:{widest}}  {one if isinstance(one, str) else json.dumps(one)}"
