"""Take a report out of the SCALE wrapping that some guest agents write to files: a variant, then a byte vector.

For files that a person names, never for evidence in a protocol. Source: Parity SCALE codec, compact integers.
"""

from __future__ import annotations

from strongroom.attestation.evidence.nitro import looks_like_nitro
from strongroom.attestation.evidence.snp import looks_like_snp

_LONGEST = 4  # bytes of a compact length


def unwrap_scale(data: bytes) -> bytes:
    """Return the SNP report or Nitro document inside, or ``data`` as it is if there is none."""
    if len(data) < 2 + _LONGEST or data[0] != 0:
        return data
    mode = data[2] & 3
    size = {0: 1, 1: 2, 2: 4}.get(mode, 0)
    start = 2 + size
    length = int.from_bytes(data[2:start], "little") >> 2
    inner = data[start : start + length]
    if size and len(inner) == length and (looks_like_snp(inner) or looks_like_nitro(inner)):
        return inner
    return data
