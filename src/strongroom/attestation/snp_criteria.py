"""Rate AMD firmware by a verifier's own minimum, and object to guests that a policy does not accept (spec §3.13).

Pure. AMD publishes no TCB levels: without a minimum for its generation a platform is Unrated, which no policy accepts
unless it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from strongroom.attestation.amd_endorsements import ROOTS
from strongroom.attestation.evidence.snp import SnpTcb
from strongroom.attestation.failures import AttributesError, CollateralError, TcbError
from strongroom.attestation.snp import (
    PLATFORM_ALIAS_CHECKED,
    PLATFORM_SMT,
    POLICY_KNOWN,
    UNRATED,
    SnpClaims,
)
from strongroom.errors import EvidenceError, PolicyError

_NUMBERS: Final = frozenset({"bootloader", "tee", "snp", "microcode", "fmc"})
_MOST: Final = 255
# What must have reached the minimum: what the key was derived for, what can no longer be undone, and what was there
# when the guest was measured.
_RATED: Final = ("reported", "committed", "launch")


class GuestPolicy(Protocol):
    """The part of an appraisal policy that speaks about SEV-SNP guests."""

    @property
    def statuses(self) -> frozenset[str]:
        """Return the TCB statuses accepted."""
        ...

    @property
    def snp_minimum(self) -> Mapping[str, SnpTcb]:
        """Return the least firmware by generation."""
        ...

    @property
    def vmpl(self) -> frozenset[int]:
        """Return the privilege levels accepted."""
        ...

    @property
    def smt(self) -> bool:
        """Say whether hyper-threading is accepted."""
        ...

    @property
    def unknown_revocation(self) -> bool:
        """Say whether endorsements without a CRL are accepted."""
        ...

    @property
    def unchecked_memory_aliases(self) -> bool:
        """Say whether a machine is accepted whose firmware did not look for aliased memory."""
        ...


def rate_firmware(claims: SnpClaims, minimum: Mapping[str, SnpTcb]) -> str:
    """Return UpToDate, OutOfDate, or Unrated where ``minimum`` does not know the generation."""
    if claims.endorsed.generation not in minimum:
        return UNRATED
    return "OutOfDate" if _behind(claims, minimum) else "UpToDate"


def object_to_guest(policy: GuestPolicy, claims: SnpClaims) -> list[EvidenceError]:
    """Return the objections to collateral, firmware, platform and guest, in the order of the appraisal."""
    report, endorsed = claims.quote, claims.endorsed
    objections: list[EvidenceError] = []
    if endorsed.crl_number is None and not policy.unknown_revocation:
        objections.append(
            CollateralError(
                "the endorsements have no CRL, so that revocation of AMD's authority cannot be seen",
                hint="add AMD's CRL of this generation, or set unknown_revocation = true to go without",
            )
        )
    status = rate_firmware(claims, policy.snp_minimum)
    if status not in policy.statuses:
        behind = _behind(claims, policy.snp_minimum)
        objections.append(
            TcbError(
                f"the platform is {status}{': ' + '; '.join(behind) if behind else ''}, accepted: "
                f"{', '.join(sorted(policy.statuses)) or 'none'}",
                hint="update the platform's firmware"
                if behind
                else f"say in [snp_minimum.{endorsed.generation}] which firmware is new enough",
            )
        )
    if report.platform_info & PLATFORM_SMT and not policy.smt:
        objections.append(
            TcbError("hyper-threading is enabled on this platform, which the policy does not accept", hint="smt = true")
        )
    if not report.platform_info & PLATFORM_ALIAS_CHECKED and not policy.unchecked_memory_aliases:
        objections.append(
            TcbError(
                "the platform's firmware did not look for aliased memory (CVE-2024-21944)",
                hint="update the platform's firmware, or set unchecked_memory_aliases = true",
            )
        )
    if report.policy & ~POLICY_KNOWN:
        objections.append(
            AttributesError(f"the guest's policy {report.policy:#x} has bits that are not known to be safe")
        )
    if report.vmpl not in policy.vmpl:
        objections.append(
            AttributesError(
                f"the report is of privilege level {report.vmpl}, accepted: {sorted(policy.vmpl)}",
                hint="a guest above a paravisor runs at a lower level; list it in `vmpl` if you trust what is below",
            )
        )
    return objections


def read_minimum(generation: str, value: Any) -> SnpTcb:  # noqa: ANN401  TOML is whatever TOML is
    """Return the least firmware written in a policy; raise PolicyError for another generation, key or number."""
    if generation not in ROOTS:
        raise PolicyError(
            f"appraisal policy: snp_minimum is for {generation[:40]!r}", hint=f"generations are {', '.join(ROOTS)}"
        )
    if (
        not isinstance(value, dict)
        or set(value) - _NUMBERS
        or not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= _MOST for one in value.values())
    ):
        raise PolicyError(
            f"appraisal policy: snp_minimum.{generation} is not a table of numbers of 0 to 255",
            hint=f"keys are {', '.join(sorted(_NUMBERS))}",
        )
    return SnpTcb(**{name: value.get(name, 0) for name in _NUMBERS})


def _behind(claims: SnpClaims, minimum: Mapping[str, SnpTcb]) -> list[str]:
    least = minimum.get(claims.endorsed.generation)
    if least is None:
        return []
    tcbs = claims.tcbs
    return [f"{name} {lack}" for name in _RATED for lack in tcbs[name].behind(least)]
