"""Carry evidence from an attester to a verifier: a quote, which TEE made it, and the event log beside it.

Sizes are bounded before anything is parsed. Nothing carried here is trusted; only an appraisal makes it so.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from strongroom.attestation.failures import MalformedEvidenceError

TeeName = Literal["sgx", "tdx", "snp", "azure-snp", "azure-tdx", "nitro"]
TEES: Final = ("sgx", "tdx", "snp", "azure-snp", "azure-tdx", "nitro")
MAX_QUOTE_BYTES = 64 << 10
MAX_EVENT_LOG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an attester presents: ``quote`` as the TEE made it, ``event_log`` empty where the TEE keeps none."""

    tee: TeeName
    quote: bytes
    event_log: bytes = b""

    def __post_init__(self) -> None:
        if self.tee not in TEES:
            raise MalformedEvidenceError(field="evidence.tee", got=repr(self.tee)[:40], expected=", ".join(TEES))
        _bound("evidence.quote", self.quote, MAX_QUOTE_BYTES)
        _bound("evidence.event_log", self.event_log, MAX_EVENT_LOG_BYTES)
        if not self.quote:
            raise MalformedEvidenceError(field="evidence.quote", got="no bytes", expected="a quote")

    def to_json(self) -> dict[str, str]:
        """Return the JSON object that travels: ``tee``, and ``quote`` and ``event_log`` in base64."""
        return {
            "tee": self.tee,
            "quote": base64.b64encode(self.quote).decode(),
            "event_log": base64.b64encode(self.event_log).decode(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the evidence in a JSON object; raise MalformedEvidenceError for anything else."""
        if not isinstance(value, Mapping) or set(value) - {"event_log"} != {"tee", "quote"}:
            raise MalformedEvidenceError(
                field="evidence", got=type(value).__name__, expected="an object with tee, quote and event_log"
            )
        return cls(
            tee=value["tee"],
            quote=_decode("evidence.quote", value["quote"], MAX_QUOTE_BYTES),
            event_log=_decode("evidence.event_log", value.get("event_log", ""), MAX_EVENT_LOG_BYTES),
        )


def _bound(field: str, data: bytes, most: int) -> None:
    if not isinstance(data, bytes):
        raise MalformedEvidenceError(field=field, got=type(data).__name__, expected="bytes")
    if len(data) > most:
        raise MalformedEvidenceError(field=field, got=f"{len(data)} bytes", expected=f"at most {most}")


def _decode(field: str, text: object, most: int) -> bytes:
    if not isinstance(text, str) or len(text) > (most + 2) // 3 * 4:
        raise MalformedEvidenceError(field=field, got=type(text).__name__, expected=f"base64 of at most {most} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedEvidenceError(field=field, got="other text", expected="standard base64") from error
