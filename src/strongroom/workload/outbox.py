"""Describe an output that a job wrote for egress: encrypted files in the job's outbox, and nothing else.

The draft travels from the driver to egress over the attested channel; the files lie on untrusted storage, so the draft
names every one of them with size and digest, as an owner's manifest does (spec/1-encrypted-dataset.md §3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from strongroom.errors import EnvelopeError


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDraft:
    """An output on its way to egress: its name, its encrypted files and the signed manifest over them."""

    name: str
    directory: str
    manifest: str

    def encode(self) -> dict[str, Any]:
        """Return the draft as it travels."""
        return {
            "name": self.name,
            "directory": self.directory,
            "manifest": self.manifest,
        }

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> Self:
        """Parse a draft; raise EnvelopeError if it is not one."""
        try:
            return cls(
                name=str(value["name"]),
                directory=str(value["directory"]),
                manifest=str(value["manifest"]),
            )
        except (KeyError, TypeError) as error:
            raise EnvelopeError("the driver sent something that is not an output") from error
