"""Keys for evidence: owners enrol, attested workloads get a grant or a refusal (spec/4-release.md §4-§9).

Clients import :mod:`strongroom.broker.client`; everything else here runs inside the broker's TEE.
"""
