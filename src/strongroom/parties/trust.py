"""Say whose quotes a party believes and which measurements it expects: the part of every journey that nobody else decides.

Production trusts Intel's root, compiled in. The simulated TEE's root is trusted only where a person named it, and every
result that rests on it says ``simulated``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from strongroom.attestation.appraisal import AttestationResult, TrustAnchor, Verifier
from strongroom.attestation.collateral import CollateralSource, FileCollateral
from strongroom.attestation.roles import Role
from strongroom.errors import EvidenceError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """A party's trust anchor, its source of collateral and the measurements it expects of each role."""

    anchor: TrustAnchor
    collateral: CollateralSource
    measurements: Mapping[Role, frozenset[str]]

    @classmethod
    def simulated(cls, platform: Path, *, measurements: Mapping[Role, Collection[str]]) -> Self:
        """Trust the simulated TEE whose public files lie in ``platform``; it protects nothing."""
        root, collateral = platform / "root.der", platform / "collateral.json"
        if not root.is_file() or not collateral.is_file():
            raise UsageError(
                f"{platform} holds no simulated platform (root.der and collateral.json)",
                hint="start one with `strongroom broker --platform DIR`, or name the right folder",
            )
        return cls(
            anchor=TrustAnchor(root_der=root.read_bytes(), simulated=True),
            collateral=FileCollateral(collateral),
            measurements={role: frozenset(values) for role, values in measurements.items()},
        )

    def verifier(self) -> Verifier:
        """Return a verifier for this trust."""
        return Verifier(self.anchor, self.collateral)

    def expect(self, result: AttestationResult, role: Role) -> None:
        """Raise EvidenceError unless ``result`` measures as ``role`` is expected to."""
        expected = self.measurements.get(role, frozenset())
        if result.measurement not in expected:
            raise EvidenceError(
                f"the {role} measures as {result.measurement}, expected {sorted(expected) or 'nothing: none is known'}",
                step="reference values",
                hint="its code is not the published one; compare with `strongroom measure`",
            )
