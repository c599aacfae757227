"""Grade an attestation result with the trust tiers of AR4SI (draft-ietf-rats-ar4si §2.3, spec/4-release.md §3.11).

A tier is a conclusion, never an input: no file, option or message can name one.
"""

from __future__ import annotations

from enum import StrEnum

_LOWEST, _HIGHEST = -128, 127
_WARNING_FROM, _CONTRAINDICATED_FROM = 32, 96


class TrustTier(StrEnum):
    """How far a relying party may trust; ordered none, affirming, warning, contraindicated."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"

    @classmethod
    def of_claim(cls, value: int) -> TrustTier:
        """Return the tier of one AR4SI claim value, an integer in -128..127."""
        if not _LOWEST <= value <= _HIGHEST:
            raise ValueError(f"an AR4SI claim value is {_LOWEST}..{_HIGHEST}, got {value}")
        if -1 <= value <= 1:
            return cls.NONE
        magnitude = value if value > 0 else -value - 1
        if magnitude < _WARNING_FROM:
            return cls.AFFIRMING
        return cls.WARNING if magnitude < _CONTRAINDICATED_FROM else cls.CONTRAINDICATED
