"""What every TEE gives the workload inside it, whichever it is (spec/4-release.md §1).

A workload is written against these names alone, so that a laptop and a data centre run the same code.
"""

from __future__ import annotations

from typing import Protocol

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import AppraisalPolicy, CollateralSource, Verifier
from strongroom.attestation.evidence import Evidence, TeeName
from strongroom.attestation.memory import CollateralMemory
from strongroom.errors import StrongroomError


class NoTeeError(StrongroomError):
    """No TEE that Strongroom knows is here, or two at once."""


class TeeDeviceError(StrongroomError):
    """The TEE's own interface failed or answered something else than was asked."""


class TeeCapabilityError(StrongroomError):
    """What was asked for does not exist in this kind of TEE."""


class MonotonicCounter(Protocol):
    """A number that only grows, beyond the host's reach as far as the TEE can see to that."""

    def read(self) -> int:
        """Return the value; 0 if it was never advanced."""
        ...

    def advance_to(self, value: int) -> None:
        """Set the value, durably; raise StrongroomError unless it grows, so that of two copies only one succeeds."""
        ...


class Tee(Protocol):
    """The TEE that this process runs in."""

    @property
    def tee(self) -> TeeName:
        """Return which encoding of evidence it makes: sgx or tdx."""
        ...

    @property
    def simulated(self) -> bool:
        """Say whether it protects nothing."""
        ...

    @property
    def own_measurement(self) -> str:
        """Return the canonical text of what this workload measures to."""
        ...

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data."""
        ...

    def anchor(self) -> TrustAnchor:
        """Return the root that evidence of this very kind of TEE leads to."""
        ...

    def collateral_source(self) -> CollateralSource:
        """Return where collateral for this kind of TEE comes from."""
        ...

    def sealing_terms(self) -> str:
        """Return what a key that is made now shall depend on beside measurement and machine; empty if nothing.

        Of an SEV-SNP guest, the firmware's version: older firmware does not get the key. Raise TeeCapabilityError where
        there are no sealing keys.
        """
        ...

    def sealing_key(self, label: str, *, terms: str) -> bytes:
        """Return 32 bytes that only the same measurement on the same machine gets for ``label`` and ``terms``."""
        ...

    def counter(self, name: str) -> MonotonicCounter:
        """Return the monotonic counter called ``name``."""
        ...


def verifier_within(tee: Tee) -> Verifier:
    """Return a verifier of a job's peers, for a process in ``tee``: its anchor and collateral, a memory of its own.

    TCB levels are left to the owners' policies, by which the broker rules.
    """
    return Verifier(
        tee.anchor(),
        tee.collateral_source(),
        memory=CollateralMemory(),
        policy=AppraisalPolicy.leaving_tcb_to_caller(),
    )
