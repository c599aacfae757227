"""Strongroom: several owners' confidential data, somebody else's program, nothing revealed but agreed results.

Start at :mod:`strongroom.parties` (owners, analysts, operators, auditors) or, inside a job, :mod:`strongroom.workload`.
"""

__version__ = "0.1.0"
