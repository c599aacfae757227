"""Publish where an endpoint is and which job it serves, and read what somebody else published (spec/8-serving.md §6).

A publication is verified before it is used: the job digest that a caller demands of the evidence follows from it. The
address is a hint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from strongroom.digests import parse_text
from strongroom.errors import EvidenceError, UsageError
from strongroom.jobs.spec import JobSpec, job_digest, verify_spec
from strongroom.statements import Statement

FORMAT: Final = "strongroom/endpoint/v1"
_MOST_BYTES: Final = 1 << 20
_LAST_PORT: Final = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A verified job of kind ``serve`` and the address at which somebody says that it is served."""

    statement: Statement
    spec: JobSpec
    address: tuple[str, int]

    @property
    def digest(self) -> bytes:
        """Return the job digest that the endpoint's evidence is bound to."""
        return parse_text(job_digest(self.statement))

    @classmethod
    def of(cls, statement: Statement, *, address: tuple[str, int]) -> Self:
        """Return the publication of a signed job; raise UsageError if it is of another kind."""
        spec = verify_spec(statement)
        if spec.kind != "serve":
            raise UsageError(f"the job is of kind {spec.kind}, must be of kind serve")
        return cls(statement=statement, spec=spec, address=address)

    def encode(self) -> bytes:
        """Return the publication as JSON; it holds no secret."""
        host, port = self.address
        value = {"format": FORMAT, "statement": self.statement.encode(), "address": f"{host}:{port}"}
        return json.dumps(value, indent=2).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the publication in a file after verifying the job's signature."""
        try:
            with path.open("rb") as stream:
                value: Any = json.loads(stream.read(_MOST_BYTES))
            if not isinstance(value, dict) or value.get("format") != FORMAT:
                raise UsageError(f"{path} is not a published endpoint", hint="`strongroom serve` writes one")
            return cls.of(Statement.decode(value["statement"]), address=parse_address(str(value["address"])))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path} is not a published endpoint", hint="`strongroom serve` writes one") from error

    def expect_program(self, digest: str) -> None:
        """Raise EvidenceError unless the job serves by the program with this digest."""
        if self.spec.program_digest != digest:
            raise EvidenceError(
                f"the endpoint serves by program {self.spec.program_digest}, expected {digest}", step="program"
            )


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; raise UsageError otherwise."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise UsageError(f"not an address: {text[:80]!r}", hint="write HOST:PORT")
    return host.strip("[]"), int(port)
