"""The simulated TEE: genuine structures, the production verifier, and a root that vouches for nothing.

It runs the same code path as hardware on any laptop; it keeps no secret from the host and says so everywhere.
"""

from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.inside import SimulatedTee
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.attestation.simulated.process import FD_VARIABLE, SimulatedProcess

__all__ = ["FD_VARIABLE", "Faults", "SimulatedPlatform", "SimulatedProcess", "SimulatedTee"]
