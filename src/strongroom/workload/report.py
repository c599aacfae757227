"""Seal a driver's last report to its analyst, who may have left long before (spec/3-job.md §6).

The host keeps it and hands it on, and can neither read nor change it: it is encrypted to the analyst's key and signed
by the key that the client attested when it handed over the job.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strongroom.attestation.workload_keys import PublicKeys, WorkloadKeyError, WorkloadKeys
from strongroom.digests import frame
from strongroom.envelope import hpke
from strongroom.envelope.hpke import KemKey
from strongroom.errors import EnvelopeError, EvidenceError

_LABEL = "strongroom/job-report/v1"
_MOST_BYTES = 1 << 15  # packed; the line to the host takes no more than twice as much
_MOST_PLAIN = 1 << 20
_LEAST_KEPT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a driver told its clients; the last event is ``done`` or ``failed``."""

    events: tuple[Mapping[str, Any], ...]

    @property
    def ending(self) -> Mapping[str, Any]:
        """Return how the job ended."""
        return self.events[-1]


def seal_report(events: Sequence[Mapping[str, Any]], *, to: bytes, keys: WorkloadKeys, job: str) -> str:
    """Return ``events``, without some in the middle if they are too many, for the analyst's KEM key ``to``, as text."""
    kept = list(events)
    while len(packed := zlib.compress(json.dumps(kept).encode())) > _MOST_BYTES and len(kept) > _LEAST_KEPT:
        del kept[len(kept) // 4 : len(kept) // 2]
    signature = keys.sign(_LABEL, job.encode(), packed)
    plain = frame(signature, packed)
    return base64.b64encode(hpke.seal(to, plain, info=_info(job))).decode()


def open_report(sealed: str, *, kem: KemKey, driver: PublicKeys, job: str) -> Report:
    """Return the report of ``job`` that ``driver`` sealed to ``kem``.

    Raise EnvelopeError if it is damaged or another's, EvidenceError if another than that driver wrote it.
    """
    try:
        plain = kem.open(base64.b64decode(sealed, validate=True), info=_info(job))
        signature, packed = _unframe(plain)
        driver.verify(signature, _LABEL, job.encode(), packed)
        unpacker = zlib.decompressobj()
        events = json.loads(unpacker.decompress(packed, _MOST_PLAIN))
    except WorkloadKeyError as error:
        raise EvidenceError(
            "the job's last report is not by the driver that was attested",
            step="job report",
            hint="its host, or another driver, wrote it; what happened stands in the ledger: strongroom audit",
        ) from error
    except (ValueError, binascii.Error, zlib.error) as error:
        raise EnvelopeError("the job's last report is damaged", hint="see the ledger: strongroom audit") from error
    if not isinstance(events, list) or not events or not all(isinstance(one, dict) for one in events):
        raise EnvelopeError("the job's last report is damaged", hint="see the ledger: strongroom audit")
    return Report(events=tuple(events))


def _info(job: str) -> bytes:
    return frame(_LABEL.encode(), job.encode())


def _unframe(plain: bytes) -> tuple[bytes, bytes]:
    """Return the two parts of a frame of two (each: length as u32 little endian, then so many bytes)."""
    size = int.from_bytes(plain[:4], "little")
    signature, rest = plain[4 : 4 + size], plain[4 + size :]
    packed = rest[4:]
    if len(signature) != size or len(packed) != int.from_bytes(rest[:4], "little"):
        raise ValueError("not two parts")
    return signature, packed
