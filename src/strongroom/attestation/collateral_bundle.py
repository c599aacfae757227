"""Carry collateral across an air gap: export a folder's sets into one file, import them where there is no network.

A bundle needs no signature of its own, since every document in it is the vendor's and is verified when it is used. An
import never replaces a set by an older one, and says when each document runs out.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from strongroom.attestation.amd_endorsements import parse_amd_endorsements
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.collateral_sources import CollateralFolder, read_collateral
from strongroom.attestation.failures import CollateralError
from strongroom.errors import EvidenceError, UsageError

FORMAT: Final = "strongroom/collateral-bundle/v1"
MAX_BYTES: Final = 64 << 20
MAX_SETS: Final = 10_000
_NAME: Final = re.compile(r"^(sgx|tdx)-[0-9A-F]{12}-(platform|processor)\.json$|^snp-[0-9a-f]{16,160}\.json$")
_CRITICAL, _WARNING = timedelta(days=3), timedelta(days=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When one document of one set runs out; ``state``: ok, soon (10 days), urgent (3 days) or expired."""

    set_name: str
    document: str
    expires: datetime
    left: timedelta

    @property
    def state(self) -> str:
        """Return how pressing a new one is."""
        if self.left <= timedelta(0):
            return "expired"
        if self.left <= _CRITICAL:
            return "urgent"
        return "soon" if self.left <= _WARNING else "ok"


def export_bundle(folder: Path, target: Path, *, now: datetime) -> int:
    """Write every set of ``folder`` into one file, whole or not at all; return how many there are."""
    sets = {path.name: read_collateral(path) for path in _sets(folder)}
    if not sets:
        raise UsageError(f"{folder} holds no collateral", hint="fetch some first: strongroom attest collateral fetch")
    body = json.dumps({"format": FORMAT, "exported": f"{now:%FT%TZ}", "sets": sets}, indent=1, sort_keys=True)
    _write(target, body)
    return len(sets)


def import_bundle(source: Path, folder: Path) -> dict[str, str]:
    """Put every set of a bundle into ``folder``; return what happened to each: ``new``, ``newer``, ``same``, ``older``.

    A set older than the one in place (by evaluation number, CRL numbers or issue date) is left out. Nothing is written
    unless all of the bundle is well-formed.
    """
    sets = _read_bundle(source)
    answers = {name: _compare(folder / name, text) for name, text in sets.items()}
    place = CollateralFolder(folder)
    for name, answer in answers.items():
        if answer in ("new", "newer"):
            place.put(folder / name, sets[name])
    return answers


def list_expiries(folder: Path, *, now: datetime) -> tuple[Expiry, ...]:
    """Return when each document in ``folder`` runs out, most pressing first; raise CollateralError for a bad set."""
    found = [
        Expiry(set_name=path.name, document=document, expires=expires, left=expires - now)
        for path in _sets(folder)
        for document, expires in _windows(path.name, read_collateral(path))
    ]
    return tuple(sorted(found, key=lambda one: (one.expires, one.set_name, one.document)))


def format_metrics(expiries: Iterable[Expiry]) -> str:
    """Return the seconds left per document in the Prometheus text format, for a node exporter's text file."""
    name = "strongroom_collateral_expiry_seconds"
    lines = [f"# HELP {name} Seconds until a document of collateral runs out.", f"# TYPE {name} gauge"]
    lines += [
        f'{name}{{set="{one.set_name}",document="{one.document}"}} {one.left.total_seconds():.0f}' for one in expiries
    ]
    return "\n".join(lines) + "\n"


def write_metrics(target: Path, text: str) -> None:
    """Write metrics for whoever reads them at any moment: whole or not at all."""
    _write(target, text)


def _sets(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of collateral", hint="name the folder that sets are kept in")
    return (path for path in sorted(folder.iterdir()) if _NAME.match(path.name))


def _windows(name: str, text: str) -> list[tuple[str, datetime]]:
    if name.startswith("snp-"):
        endorsements = parse_amd_endorsements(text)
        found = [("vek", endorsements.certificates[0].not_valid_after_utc)] if endorsements.certificates else []
        crl = endorsements.crl
        return found + ([("amd_crl", crl.next_update_utc)] if crl is not None and crl.next_update_utc else [])
    collateral = parse_collateral(text)
    parts = (collateral.tcb_info, collateral.qe_identity, collateral.root_crl, collateral.pck_crl)
    return [(part.name, part.next_update) for part in parts]


def _age(name: str, text: str) -> tuple[int, ...]:
    """Return numbers of which none may go down from one set to the next."""
    if name.startswith("snp-"):
        crl = parse_amd_endorsements(text).crl
        return (0 if crl is None else int(crl.last_update_utc.timestamp()),)
    one = parse_collateral(text)
    return (
        one.tcb_info.evaluation_number,
        one.qe_identity.evaluation_number,
        one.root_crl.number,
        one.pck_crl.number,
        *(int(part.issued.timestamp()) for part in (one.tcb_info, one.qe_identity, one.root_crl, one.pck_crl)),
    )


def _compare(place: Path, text: str) -> str:
    offered = _age(place.name, text)
    if not place.exists():
        return "new"
    has = read_collateral(place)
    if has == text:
        return "same"
    try:
        held = _age(place.name, has)
    except EvidenceError:  # what is in place is damaged: anything well-formed is better
        return "newer"
    return "older" if any(new < old for new, old in zip(offered, held, strict=True)) else "newer"


def _read_bundle(source: Path) -> dict[str, str]:
    try:
        with source.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CollateralError(f"{source} has more than {MAX_BYTES} bytes")
        body: Any = json.loads(data)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise CollateralError(f"{source} is not a bundle of collateral, expected format {FORMAT!r}")
        sets = body["sets"]
        if not isinstance(sets, dict) or not 0 < len(sets) <= MAX_SETS:
            raise CollateralError(f"{source} holds no sets, or more than {MAX_SETS}")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise CollateralError(f"{source} is not a bundle of collateral", hint="export it once more") from error
    for name, text in sets.items():
        if not _NAME.match(name) or not isinstance(text, str):
            raise CollateralError(f"{source}: {name[:60]!r} is not the name of a set")
        _windows(name, text)
    return sets


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=".new-", delete=False) as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(stream.name).replace(target)
