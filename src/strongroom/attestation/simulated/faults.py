"""Name what may be wrong with a simulated TEE, so that every refusal can be provoked.

Each knob changes exactly one fact of an otherwise genuine quote or its collateral (spec/6-attested-channel.md §5).
Faults exist on the simulated vendor alone; no real provider reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Revoked = Literal["pck", "platform-ca", "tcb-signer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong on purpose; the default is a sound, current platform."""

    debug: bool = False
    """The enclave or TD runs in debug mode: the host reads its memory."""
    sept_ve_off: bool = False
    """TDX: SEPT_VE_DISABLE is not set, so the host can inject page faults."""
    provision_key: bool = False
    """SGX: the enclave may derive the provisioning key, which no workload needs."""
    tcb_status: str = "UpToDate"
    """The status of the TCB level that this platform reaches."""
    advisories: tuple[str, ...] = ()
    """The advisories of that level."""
    revoked: Revoked | None = None
    """Which certificate its issuer's revocation list names."""
    expired_collateral: bool = False
    """TCB info, QE identity and revocation lists ran out a day ago."""
    future_collateral: bool = False
    """TCB info and QE identity are issued tomorrow."""
    wrong_root: bool = False
    """The whole chain leads to somebody else's self-made root."""
    tcb_info_signed_by_pck: bool = False
    """TCB info is signed by the PCK leaf, which chains to the right root but may not speak about TCBs."""
    qe_identity_signed_by_pck: bool = False
    """The same for the QE identity."""
    other_fmspc: bool = False
    """TCB info speaks about another platform model."""
    evaluation_number: int | None = None
    """Play this tcbEvaluationDataNumber instead of the current one: a host that serves older collateral."""
    qe_out_of_date: bool = False
    """The quoting enclave's own ISVSVN has a newer, required level."""


NO_FAULTS = Faults()
