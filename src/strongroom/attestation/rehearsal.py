"""Rehearse an appraisal policy on a folder of quotes, under today's collateral and under the vendor's early set.

Intel publishes a new TCB set months before it becomes standard (``update=early``): a platform that is up to date today
may not be then. Nothing here grants anything; it says what would happen (`strongroom attest test-policy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from strongroom.attestation.amd_endorsements import chip_of, parse_amd_endorsements
from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import AppraisalPolicy, CollateralSource
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.collateral_sources import read_collateral
from strongroom.attestation.evidence.nitro import looks_like_nitro
from strongroom.attestation.evidence.pck import parse_pck_chain
from strongroom.attestation.evidence.quote import parse_quote
from strongroom.attestation.evidence.snp import looks_like_snp, parse_snp_report
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import CollateralError
from strongroom.attestation.genuineness import hardware_part
from strongroom.errors import EvidenceError, TransportError, UsageError

MAX_FILES = 10_000
_ENDORSEMENTS = frozenset({".json", ".pem", ".der", ".crt", ".cer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What the policy says about one quote under one set: accepted, or every reason why not, each with its step."""

    name: str
    set_name: str
    accepted: bool
    status: str
    reasons: tuple[Mapping[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON values."""
        return {
            "quote": self.name,
            "set": self.set_name,
            "accepted": self.accepted,
            "status": self.status,
            "reasons": [dict(reason) for reason in self.reasons],
        }


class CollateralShelf:
    """Sets of collateral in a folder, whatever their files are called; a set current at ``now`` is preferred."""

    def __init__(self, path: Path, *, now: datetime) -> None:
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder of collateral")
        self._chips: dict[bytes, str] = {}
        for file in sorted(path.iterdir())[:MAX_FILES]:
            if file.suffix in _ENDORSEMENTS:
                self._shelve_endorsements(file)
        self._sets: dict[tuple[str, str, str], tuple[tuple[bool, datetime], str]] = {}
        for file in sorted(path.glob("*.json"))[:MAX_FILES]:
            try:
                text = read_collateral(file)
                one = parse_collateral(text)
            except EvidenceError:
                continue  # other files may lie in the folder
            issuer = one.pck_crl.issuer.rfc4514_string()
            ca = "platform" if "Platform CA" in issuer else "processor"
            issued = max(part.issued for part in (one.tcb_info, one.qe_identity, one.root_crl, one.pck_crl))
            rank = (issued <= now <= one.expires, issued)
            key = (one.tcb_info.id.lower(), one.fmspc, ca)
            if key not in self._sets or rank > self._sets[key][0]:
                self._sets[key] = (rank, text)

    def collateral(self, quote: bytes) -> str:
        """Return the set for the platform of ``quote``; raise CollateralError if there is none.

        A Nitro document needs none, and an SEV-SNP guest none if its chip's certificate came with its evidence.
        """
        if looks_like_nitro(quote):
            return ""
        quote = hardware_part(quote)
        if looks_like_snp(quote):
            report = parse_snp_report(quote)
            if report.signing_key == "VLEK":
                return self._chips.get(b"", "")
            return next((text for chip, text in self._chips.items() if chip and report.chip_id.startswith(chip)), "")
        parsed = parse_quote(quote)
        if not parsed.signature.pck_chain:
            raise CollateralError("the quote does not name its platform, so no collateral can be chosen for it")
        chain = parse_pck_chain(parsed.signature.pck_chain)
        key = (parsed.tee, chain.extension.fmspc.hex().upper(), chain.ca)
        if key not in self._sets:
            raise CollateralError(
                f"no collateral for {key[0].upper()} on platform model {key[1]} ({key[2]} CA)",
                hint="fetch it: strongroom attest collateral fetch",
            )
        return self._sets[key][1]

    def _shelve_endorsements(self, file: Path) -> None:
        try:
            text = read_collateral(file)
            chip = chip_of(parse_amd_endorsements(text))
        except EvidenceError:
            return  # other files may lie in the folder
        if chip is not None:
            self._chips[chip] = text


def rehearse(
    policy: AppraisalPolicy,
    quotes: Mapping[str, bytes | EvidenceError],
    *,
    sets: Mapping[str, CollateralSource],
    anchor: TrustAnchor,
    now: datetime,
) -> tuple[Rehearsed, ...]:
    """Return what ``policy`` says about each quote under each named set of collateral, in the order given.

    An error stands for something in which there is no evidence: it is refused with that error.
    """
    rows: list[Rehearsed] = []
    for name, quote in quotes.items():
        for set_name, source in sets.items():
            accepted, status, reasons = _answer(policy, quote, source=source, anchor=anchor, now=now)
            rows.append(Rehearsed(name=name, set_name=set_name, accepted=accepted, status=status, reasons=reasons))
    return tuple(rows)


def _answer(
    policy: AppraisalPolicy,
    quote: bytes | EvidenceError,
    *,
    source: CollateralSource,
    anchor: TrustAnchor,
    now: datetime,
) -> tuple[bool, str, tuple[Mapping[str, str], ...]]:
    try:
        if isinstance(quote, EvidenceError):
            raise quote
        collateral = source.collateral(quote)
    except (EvidenceError, TransportError) as error:
        step = error.step if isinstance(error, EvidenceError) else "collateral"
        return False, "", ({"step": step, "reason": error.message, "hint": error.hint},)
    facts = verify_quote(quote, collateral=collateral, now=now, anchor=anchor, policy=policy)
    return facts["accepted"], facts["status"] or "", tuple(facts["reasons"])
