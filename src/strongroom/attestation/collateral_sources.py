"""Get collateral for a platform: from a file, a folder that works offline, or a PCCS with the folder as its cache.

The relying party chooses the source; what comes from it is verified like anything else, so a source can delay or deny,
never deceive. Nothing is fetched from an address that was not configured.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from strongroom.attestation.amd_endorsements import parse_amd_endorsements
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.collateral_forms import normalise_collateral
from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.evidence.pck import parse_pck_chain
from strongroom.attestation.evidence.quote import Quote, parse_quote
from strongroom.attestation.evidence.snp import looks_like_snp, parse_snp_report
from strongroom.attestation.failures import CollateralError
from strongroom.attestation.genuineness import hardware_part
from strongroom.attestation.kds import KeyDistributionService
from strongroom.attestation.patient_client import CollateralFetchError
from strongroom.attestation.pcs import CollateralService

_TEES: Final[dict[str, TeeName]] = {"SGX": "sgx", "TDX": "tdx"}
_FAILURE_LASTS = 10.0  # seconds
_MOST_FAILED = 1024
_DER_SEQUENCE = b"\x30"


class CollateralFile:
    """One set of collateral in a file, whatever platform is asked about."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collateral(self, quote: bytes) -> str:  # noqa: ARG002  a file holds one set
        """Return the file's text; raise CollateralError if it cannot be read."""
        return read_collateral(self._path)


class CollateralFolder:
    """Sets of collateral by platform model, as ``<tee>-<FMSPC>-<ca>.json``; needs no network."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collateral(self, quote: bytes) -> str:
        """Return the set for the platform of ``quote``; raise CollateralError if the folder has none."""
        quote = hardware_part(quote)
        if looks_like_snp(quote):
            return read_collateral(self.place_of_report(quote))
        return read_collateral(self.place_of(parse_quote(quote)))

    def place_of_report(self, data: bytes) -> Path:
        """Return where the endorsements of an SEV-SNP report's chip and firmware are: ``snp-<chip><TCB>.json``."""
        report = parse_snp_report(data)
        return self._path / f"snp-{report.chip_id.hex()}{report.reported_tcb.hex()}.json"

    def add_endorsements(self, report: bytes, text: str) -> Path:
        """Put AMD endorsements into the folder for the chip and firmware of ``report``; return where they are."""
        parse_amd_endorsements(text)
        return self.put(self.place_of_report(report), text)

    def place_of(self, quote: Quote) -> Path:
        """Return where the set for the platform of ``quote`` is, or would be."""
        if not quote.signature.pck_chain:
            raise CollateralError("the quote does not name its platform, so no collateral can be chosen for it")
        chain = parse_pck_chain(quote.signature.pck_chain)
        return self._path / f"{quote.tee}-{chain.extension.fmspc.hex().upper()}-{chain.ca}.json"

    def add(self, text: str) -> Path:
        """Put a set into the folder under its platform's name, whole or not at all; return where it is."""
        collateral = parse_collateral(text)
        issuer = collateral.pck_crl.issuer.rfc4514_string()
        ca = next((kind for kind in ("platform", "processor") if f"SGX PCK {kind.title()} CA" in issuer), "")
        tee = _TEES.get(collateral.tcb_info.id)
        fmspc = collateral.fmspc
        if tee is None or not ca or len(fmspc) != 12 or not fmspc.isalnum():  # noqa: PLR2004  six bytes in hex
            raise CollateralError("this collateral does not say which platforms it is for")
        return self.put(self._path / f"{tee}-{fmspc}-{ca}.json", text)

    def put(self, place: Path, text: str) -> Path:
        """Write ``text`` at ``place``, whole or not at all."""
        self._path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._path, prefix=".new-", delete=False) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(stream.name).replace(place)
        return place


class Pccs:
    """A collateral service, asked once per platform and ``refresh``, with a folder as its cache.

    A set in the folder is used without asking while younger than ``refresh``, and also when the service fails: if it
    has expired meanwhile, verification says so. However many threads ask about a platform, one fetch answers them all.
    ``amd``: where the endorsements of SEV-SNP chips are fetched; without it the folder must have them.
    """

    def __init__(
        self,
        service: CollateralService | str,
        *,
        folder: CollateralFolder,
        refresh: timedelta = timedelta(hours=12),
        deadline: timedelta = timedelta(seconds=30),
        amd: KeyDistributionService | None = None,
    ) -> None:
        self._service = CollateralService(service, deadline=deadline) if isinstance(service, str) else service
        self._amd = amd
        self._folder = folder
        self._refresh = refresh
        self._lock = threading.Lock()
        self._failed: dict[Path, tuple[float, CollateralFetchError]] = {}

    def collateral(self, quote: bytes) -> str:
        """Return the set for the platform of ``quote``; raise CollateralFetchError if there is none to be had."""
        quote = hardware_part(quote)
        if looks_like_snp(quote):
            if self._amd is None:
                return self._folder.collateral(quote)
            fetch, check = partial(self._amd.fetch, parse_snp_report(quote)), parse_amd_endorsements
            return self._keep(self._folder.place_of_report(quote), fetch, check)
        parsed = parse_quote(quote)
        place = self._folder.place_of(parsed)
        chain = parse_pck_chain(parsed.signature.pck_chain)
        fmspc = chain.extension.fmspc.hex().upper()
        ask = partial(self._service.fetch, tee=parsed.tee, fmspc=fmspc, ca=chain.ca)
        return self._keep(place, ask, parse_collateral)

    def _keep(self, place: Path, ask: Callable[[], str], check: Callable[[str], object]) -> str:
        """Return the set at ``place``, asking for it if it is old; ``check`` raises for what is none."""
        if _age(place) < self._refresh.total_seconds():  # whoever has a set need not wait for another platform's fetch
            return read_collateral(place)
        with self._lock:  # a thousand workers of one platform make one fetch
            if _age(place) < self._refresh.total_seconds():
                return read_collateral(place)
            try:
                text = self._fetch(place, ask)
            except CollateralFetchError:
                if place.exists():
                    return read_collateral(place)
                raise
            check(text)
            self._folder.put(place, text)
            return text

    def _fetch(self, place: Path, ask: Callable[[], str]) -> str:
        """Return what the service says; repeat its last failure for a while: a thousand wait for one timeout."""
        when, failure = self._failed.get(place, (-_FAILURE_LASTS, None))
        if failure is not None and time.monotonic() - when < _FAILURE_LASTS:
            raise failure
        try:
            return ask()
        except CollateralFetchError as error:
            if len(self._failed) >= _MOST_FAILED:  # anybody can name platforms that there are not
                self._failed.clear()
            self._failed[place] = (time.monotonic(), error)
            raise


def read_collateral(path: Path) -> str:
    """Return a file of collateral as text: a certificate in DER (an AMD VCEK) as PEM, other tools' JSON in our form."""
    try:
        data = path.read_bytes()
        if data[:1] == _DER_SEQUENCE:
            return ssl.DER_cert_to_PEM_cert(data)
        return normalise_collateral(data.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise CollateralError(
            f"no collateral at {path}", hint="fetch it from a PCCS, or export it where there is a network"
        ) from error


def _age(path: Path) -> float:
    try:
        return max(time.time() - path.stat().st_mtime, 0)
    except OSError:
        return float("inf")


__all__ = ["CollateralFetchError", "CollateralFile", "CollateralFolder", "Pccs", "read_collateral"]
