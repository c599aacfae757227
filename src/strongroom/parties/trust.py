"""Say whose quotes a party believes and which measurements it expects: the part of every journey that nobody else
decides.

Production trusts Intel's root, compiled in. The simulated TEE's root is trusted only where a person named it, and
every result that rests on it says ``simulated``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.appraisal import AttestationResult, CollateralSource, Verifier
from strongroom.attestation.failures import CollateralError
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.roles import Role
from strongroom.errors import EvidenceError, UsageError

_MAX_COLLATERAL_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralFile:
    """Collateral for one platform in one file (QuoteCollateralV3 JSON), read anew for each appraisal."""

    path: Path | None

    def collateral(self, quote: bytes) -> str:
        """Return the file's text; raise CollateralError if there is none. What it says is verified like any other."""
        del quote
        if self.path is None:
            raise CollateralError(
                "no collateral for a real platform is at hand",
                hint="fetch it from a PCCS into a file (QuoteCollateralV3 JSON) and name that file",
            )
        try:
            with self.path.open("rb") as stream:
                return stream.read(_MAX_COLLATERAL_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise CollateralError(f"cannot read collateral from {self.path}", hint="fetch it again") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """A party's trust anchor, its source of collateral and the measurements it expects of each role."""

    anchor: TrustAnchor
    collateral: CollateralSource
    measurements: Mapping[Role, frozenset[str]]

    @classmethod
    def intel(cls, *, measurements: Mapping[Role, Collection[str]], collateral: Path | None = None) -> Self:
        """Trust Intel's root, compiled in, with the collateral in the file ``collateral``."""
        return cls(
            anchor=INTEL,
            collateral=CollateralFile(path=collateral),
            measurements={role: frozenset(values) for role, values in measurements.items()},
        )

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
            collateral=CollateralFile(path=collateral),
            measurements={role: frozenset(values) for role, values in measurements.items()},
        )

    def verifier(self) -> Verifier:
        """Return a verifier for this trust."""
        return Verifier(self.anchor, self.collateral, memory=CollateralMemory())

    def expect(self, result: AttestationResult, role: Role) -> None:
        """Raise EvidenceError unless ``result`` measures as ``role`` is expected to."""
        expected = self.measurements.get(role, frozenset())
        if result.measurement not in expected:
            raise EvidenceError(
                f"the {role} measures as {result.measurement}, expected {sorted(expected) or 'nothing: none is known'}",
                step="reference values",
                hint="its code, or a package that it uses, is not the published one; compare with `strongroom measure`",
            )
