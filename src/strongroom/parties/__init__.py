"""The SDK: what owners, analysts, operators and auditors do, one method per step of the journey.

A party's own directory is :class:`Home`; whom it trusts is its own decision (:class:`TrustedBroker`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strongroom.parties.analyst import Analyst
    from strongroom.parties.auditor import Auditor
    from strongroom.parties.brokers import IntelVendor, SimulatedVendor, TrustedBroker
    from strongroom.parties.home import Home
    from strongroom.parties.operator import Operator
    from strongroom.parties.owner import Owner
    from strongroom.parties.trust import Trust

__all__ = [
    "Analyst",
    "Auditor",
    "Home",
    "IntelVendor",
    "Operator",
    "Owner",
    "SimulatedVendor",
    "Trust",
    "TrustedBroker",
]

_WHERE = {
    "Analyst": "analyst",
    "Auditor": "auditor",
    "Home": "home",
    "IntelVendor": "brokers",
    "Operator": "operator",
    "Owner": "owner",
    "SimulatedVendor": "brokers",
    "Trust": "trust",
    "TrustedBroker": "brokers",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  whatever the name stands for
    """Import a party when it is first asked for: who only wants to know its own id need not load the engines."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
