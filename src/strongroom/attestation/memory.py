"""Remember the newest collateral and time seen, so that nobody can present older ones (spec/4-release.md §3.2).

Collateral stays formally valid for a month: a host that serves last month's hides this month's revocations. Only
collateral whose signatures were verified is remembered. The file holds nothing secret; losing it loses only memory.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from strongroom.attestation.amd_endorsements import EndorsedKey
from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral import Collateral
from strongroom.attestation.failures import ClockSetBackError, StaleCollateralError
from strongroom.errors import EvidenceError

FORMAT = "strongroom/collateral-memory/v1"
TOLERANCE = timedelta(minutes=5)
"""How far two honest clocks, or two fetches in flight, may disagree."""

_NUMBER, _ISSUED, _NEVER = 0, 1, (-1, 0)


class CollateralMemoryError(EvidenceError):
    """The file of a collateral memory is damaged."""


class CollateralMemory:
    """A high-water mark per document: its number and issue time; and of the clock.

    ``CollateralMemory(path)`` outlives the process and may be shared by several; ``CollateralMemory()`` lives as long
    as the object. Threads may share one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._marks: dict[str, tuple[int, int]] = {}
        self._clock = 0
        self.revision = 0  # It moves with every mark, and so says whether there is anything new to write down.
        if path is not None:
            self._merge(_load(path))

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the memory kept in the file at ``path``, which is made when something is first remembered."""
        return cls(path)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return a memory with the marks that :meth:`encode` wrote, or none at all for an empty text."""
        memory = cls()
        if text:
            memory._merge(_parse(json.loads(text)))
        return memory

    def encode(self) -> str:
        """Return the marks of the documents as text, the same text for the same marks; the clock is not among them."""
        with self._lock:
            return json.dumps({"format": FORMAT, "clock": 0, "marks": self._marks}, sort_keys=True)

    @property
    def latest(self) -> datetime | None:
        """Return the latest time seen, or None if nothing was."""
        return datetime.fromtimestamp(self._clock, UTC) if self._clock else None

    def check(self, collateral: Collateral | EndorsedKey, *, anchor: TrustAnchor, now: datetime) -> None:
        """Raise ClockSetBackError or StaleCollateralError if ``now`` or a document is older than what was seen."""
        with self._lock:
            clock, marks = self._clock, dict(self._marks)
        if now.timestamp() < clock - TOLERANCE.total_seconds():
            seen = datetime.fromtimestamp(clock, UTC)
            raise ClockSetBackError(
                f"the clock says {now:%FT%TZ}, but {seen:%FT%TZ} was already seen",
                hint="the host's clock was set back, which would make expired collateral look current; set it right",
            )
        for name, (number, issued) in _marks_of(collateral, anchor).items():
            least_number, least_issued = marks.get(name, _NEVER)
            document = name.rpartition("/")[2]
            if number < least_number:
                raise StaleCollateralError(
                    f"{document} has number {number}, but {least_number} was already seen",
                    hint="older collateral was presented, which may hide a revocation; fetch the current one",
                )
            if issued < least_issued - TOLERANCE.total_seconds():
                got, least = (datetime.fromtimestamp(time, UTC) for time in (issued, least_issued))
                raise StaleCollateralError(
                    f"{document} was issued at {got:%FT%TZ}, but one of {least:%FT%TZ} was already seen",
                    hint="older collateral was presented, which may hide a revocation; fetch the current one",
                )

    def remember(self, collateral: Collateral | EndorsedKey, *, anchor: TrustAnchor, now: datetime) -> None:
        """Raise the marks to this verified collateral and time, on disk before this returns if anything moved much."""
        seconds = int(now.timestamp())
        with self._lock:
            marks = _marks_of(collateral, anchor)
            moved = any(
                _max(mark, self._marks.get(name, _NEVER)) != self._marks.get(name) for name, mark in marks.items()
            )
            moved = moved or seconds >= self._clock + TOLERANCE.total_seconds()
            if not moved:
                return
            self._merge({"clock": seconds, "marks": marks})
            if self._path is not None:
                self._save(self._path)

    def _merge(self, other: dict[str, Any]) -> None:
        self._clock = max(self._clock, other["clock"])
        for name, mark in other["marks"].items():
            highest = _max(mark, self._marks.get(name, _NEVER))
            if highest != self._marks.get(name):
                self._marks[name] = highest
                self.revision += 1

    def _save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            self._merge(_load(path))  # another process may have seen more
            body = {
                "format": FORMAT,
                "clock": self._clock,
                "marks": {name: list(mark) for name, mark in self._marks.items()},
            }
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as stream:
                json.dump(body, stream, indent=1, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            Path(stream.name).replace(path)


def _max(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    return (max(left[_NUMBER], right[_NUMBER]), max(left[_ISSUED], right[_ISSUED]))


@lru_cache(maxsize=64)
def _marks_of(collateral: Collateral | EndorsedKey, anchor: TrustAnchor) -> dict[str, tuple[int, int]]:
    """Return number and issue time of each document, under names that keep anchors, TEEs and platforms apart.

    AMD endorsements without a CRL have the mark of one that was never issued: once a CRL was seen, one is expected.
    """
    if isinstance(collateral, EndorsedKey):
        number, issued = collateral.crl_number, collateral.crl_issued
        mark = _NEVER if number is None or issued is None else (number, int(issued.timestamp()))
        return {f"{anchor.sha256[:16]}/{collateral.generation}/amd_crl": mark}
    root = anchor.sha256[:16]
    info, identity = collateral.tcb_info, collateral.qe_identity
    issuer = collateral.pck_crl.issuer.rfc4514_string()
    return {
        f"{root}/{info.id}/{collateral.fmspc}/tcb_info": (info.evaluation_number, int(info.issued.timestamp())),
        f"{root}/{identity.id}/qe_identity": (identity.evaluation_number, int(identity.issued.timestamp())),
        f"{root}/{issuer.replace('/', '_')}/pck_crl": (
            collateral.pck_crl.number,
            int(collateral.pck_crl.issued.timestamp()),
        ),
        f"{root}/root_ca_crl": (collateral.root_crl.number, int(collateral.root_crl.issued.timestamp())),
    }


def _parse(body: Any) -> dict[str, Any]:  # noqa: ANN401  JSON
    if body["format"] != FORMAT:
        raise ValueError(f"format {body['format']!r}, expected {FORMAT!r}")
    marks = {str(name): (int(number), int(issued)) for name, (number, issued) in body["marks"].items()}
    return {"clock": int(body["clock"]), "marks": marks}


def _load(path: Path) -> dict[str, Any]:
    try:
        return _parse(json.loads(path.read_text()))
    except FileNotFoundError:
        return {"clock": 0, "marks": {}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CollateralMemoryError(
            f"{path} is not a collateral memory",
            step="collateral",
            hint="restore it from a backup; deleting it makes the next collateral seen the oldest accepted",
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
