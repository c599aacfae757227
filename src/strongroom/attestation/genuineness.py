"""Verify evidence of any kind, told apart by its own bytes: the one way in for every verdict (spec/4-release.md §3).

It applies no policy: what comes back is true, which is not to say that it is good enough.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from strongroom.attestation.amd_endorsements import EndorsedKey, parse_amd_endorsements
from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.azure import AzureClaims, verify_vtpm
from strongroom.attestation.claims import Claims
from strongroom.attestation.collateral import Collateral, parse_collateral
from strongroom.attestation.evidence.azure import looks_like_azure, parse_azure
from strongroom.attestation.evidence.nitro import looks_like_nitro, parse_nitro
from strongroom.attestation.evidence.snp import looks_like_snp, parse_snp_report
from strongroom.attestation.nitro import NitroClaims, verify_nitro
from strongroom.attestation.snp import SnpClaims, verify_snp
from strongroom.attestation.verification import open_evidence, verify_opened

AnyClaims = Claims | SnpClaims | AzureClaims | NitroClaims
Endorsements = Collateral | EndorsedKey


def ignore(endorsements: Endorsements) -> None:
    """Remember nothing: for verdicts about files, where no earlier verdict binds."""


def hardware_part(data: bytes) -> bytes:
    """Return the quote or report by which a platform's collateral is chosen; raise MalformedEvidenceError."""
    return parse_azure(data).hardware if looks_like_azure(data) else data


def verify_evidence(
    data: bytes,
    *,
    choose: Callable[[], str],
    anchor: TrustAnchor,
    now: datetime,
    remember: Callable[[Endorsements], None],
) -> AnyClaims:
    """Return the claims of evidence that is genuine, intact, not revoked and not of a debug workload.

    ``choose`` returns the collateral's text; it is not asked for a Nitro document, which needs none. ``remember`` is
    called with endorsements once their signatures hold and before the evidence is judged; it may refuse them. Raise the
    EvidenceError of the first step that failed.
    """
    if looks_like_nitro(data):
        return verify_nitro(parse_nitro(data), anchor=anchor, now=now)
    if looks_like_azure(data):
        evidence = parse_azure(data)
        hardware = _verify_hardware(
            evidence.hardware, choose=choose, anchor=anchor, now=now, remember=remember, beside=evidence.vcek
        )
        return verify_vtpm(evidence, hardware)
    return _verify_hardware(data, choose=choose, anchor=anchor, now=now, remember=remember, beside=b"")


def _verify_hardware(
    data: bytes,
    *,
    choose: Callable[[], str],
    anchor: TrustAnchor,
    now: datetime,
    remember: Callable[[Endorsements], None],
    beside: bytes,
) -> Claims | SnpClaims:
    if looks_like_snp(data):
        return verify_snp(
            parse_snp_report(data),
            parse_amd_endorsements(choose()),
            beside=beside,
            anchor=anchor,
            now=now,
            remember=remember,
        )
    opened = open_evidence(data, choose=lambda _: parse_collateral(choose()), anchor=anchor, now=now)
    remember(opened.collateral)  # also if it revokes this very platform
    return verify_opened(opened, data, anchor=anchor, now=now)
