"""The simulated TEE: genuine structures, the production verifier, and a root that vouches for nothing.

It runs the same code path as hardware on any laptop; it keeps no secret from the host and says so everywhere.
"""
