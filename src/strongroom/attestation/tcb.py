"""Say how far a platform's firmware is from a TCB level, component by component, in words a person can act on.

Reads what verification found; decides nothing. Component numbers are Intel's, 1 to 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from strongroom.attestation.evidence.pck import PckExtension

TCB_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)


_BIOS = "update the BIOS or microcode"
_HOST = "update the host's operating system or hypervisor"
_MODULE = "update the TDX module"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """What is lower than a level asks, as phrases; the advisories that apply below it; and what raises each."""

    lacks: tuple[str, ...]
    advisories: tuple[str, ...]
    updates: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """Return what to do, or an empty text."""
        if not self.lacks:
            return ""
        what = f"{'; '.join(self.lacks)}: {', '.join(self.updates) or _BIOS}"
        return "; ".join([what, *([", ".join(self.advisories)] if self.advisories else [])])


def find_shortfall(
    tcb_info: dict[str, Any], *, extension: PckExtension, tee_tcb_svn: bytes, at_best: bool
) -> Shortfall:
    """Compare a platform with the best level of ``tcb_info``, or with the level it misses by least.

    ``tee_tcb_svn`` is empty for SGX. The advisories are those of the level that the platform reaches, if it reaches
    one. A document of another shape gives an empty shortfall: the refusal stands anyway.
    """
    try:
        levels = [
            (_lacks(level["tcb"], extension, tee_tcb_svn), tuple(level.get("advisoryIDs", ())))
            for level in tcb_info["tcbLevels"]
        ]
        if not levels:
            return Shortfall(lacks=(), advisories=())
        chosen = levels[0] if at_best else min(levels, key=lambda level: len(level[0]))
        below = next((advisories for lacks, advisories in levels if not lacks), ())
    except (KeyError, TypeError, ValueError, AttributeError):
        return Shortfall(lacks=(), advisories=())
    return Shortfall(
        lacks=tuple(lack for lack, _ in chosen[0]),
        advisories=tuple(sorted(below)),
        updates=tuple(dict.fromkeys(update for _, update in chosen[0])),
    )


def _lacks(tcb: dict[str, Any], extension: PckExtension, tee_tcb_svn: bytes) -> list[tuple[str, str]]:
    """Return each thing that is behind, and what raises it."""
    lacks = _compare("SGX component", extension.components, tcb["sgxtcbcomponents"])
    if extension.pcesvn < tcb["pcesvn"]:
        lacks.append((f"PCE SVN is {extension.pcesvn}, needs {tcb['pcesvn']}", "update the platform's DCAP packages"))
    if tee_tcb_svn:
        lacks += _compare("TDX component", tee_tcb_svn, tcb["tdxtcbcomponents"])
    return lacks


def _compare(name: str, has: Sequence[int], needs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    lacks = []
    for number, (svn, component) in enumerate(zip(has, needs, strict=True), start=1):
        if svn < component["svn"]:
            kind = str(component.get("type") or component.get("category") or "")
            lack = f"{name} {number}{f' ({kind})' if kind else ''} is {svn}, needs {component['svn']}"
            lacks.append((lack, _update(name, kind, str(component.get("category", "")))))
    return lacks


def _update(name: str, kind: str, category: str) -> str:
    if name.startswith("TDX") or kind == "TDX Module":
        return _MODULE
    return _HOST if category == "OS/VMM" else _BIOS
