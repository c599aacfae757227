"""Check every output against the fused policy in a process of its own, and encrypt it to its recipients.

The program never meets egress, and egress never meets the inputs: it holds the job's output key and no input key.
"""

from strongroom.egress.ruling import OutputFacts, Release, rule

__all__ = ["OutputFacts", "Release", "rule"]
