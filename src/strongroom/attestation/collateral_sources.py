"""Get collateral for a platform: from a file, a folder that works offline, or a PCCS with the folder as its cache.

The relying party chooses the source; what comes from it is verified like anything else, so a source can delay or deny,
never deceive. Nothing is fetched from an address that was not configured.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final

import dcap_qvl

from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.evidence.pck import parse_pck_chain
from strongroom.attestation.evidence.quote import Quote, parse_quote
from strongroom.attestation.failures import CollateralError
from strongroom.errors import TransportError, UsageError

_TEES: Final[dict[str, TeeName]] = {"SGX": "sgx", "TDX": "tdx"}
_DER_SEQUENCE = b"\x30"
_CHAIN = "pck_certificate_chain"


class CollateralFetchError(TransportError):
    """The PCCS cannot be reached, is too slow, or has nothing for this platform."""


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
        return read_collateral(self.place_of(parse_quote(quote)))

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
    """A Provisioning Certificate Caching Service (or Intel's own), asked once per platform and ``refresh``.

    A set in the folder is used without asking while younger than ``refresh``, and also when the service fails: if it
    has expired meanwhile, verification says so. ``deadline`` bounds every fetch.
    """

    def __init__(
        self,
        url: str,
        *,
        folder: CollateralFolder,
        refresh: timedelta = timedelta(hours=12),
        deadline: timedelta = timedelta(seconds=30),
    ) -> None:
        if not url.startswith(("https://", "http://localhost:", "http://127.0.0.1:")):
            raise UsageError(
                f"not the address of a PCCS: {url[:80]!r}", hint="use https://, or http:// on this machine"
            )
        self._url = url
        self._folder = folder
        self._refresh = refresh
        self._deadline = deadline
        self._lock = threading.Lock()

    def collateral(self, quote: bytes) -> str:
        """Return the set for the platform of ``quote``; raise CollateralFetchError if there is none to be had."""
        parsed = parse_quote(quote)
        place = self._folder.place_of(parsed)
        with self._lock:  # a thousand workers of one platform make one fetch
            if _age(place) < self._refresh.total_seconds():
                return read_collateral(place)
            try:
                text = self._fetch(quote)
            except CollateralFetchError:
                if place.exists():
                    return read_collateral(place)
                raise
            members = json.loads(text)
            members.pop(_CHAIN, None)  # one machine's; the quote carries its own
            text = json.dumps(members)
            parse_collateral(text)
            self._folder.put(place, text)
            return text

    def _fetch(self, quote: bytes) -> str:
        async def get() -> dcap_qvl.QuoteCollateralV3:
            fetched = dcap_qvl.get_collateral(self._url, quote)
            return await asyncio.wait_for(fetched, self._deadline.total_seconds())

        with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop of its own
            try:
                return str(thread.submit(asyncio.run, get()).result().to_json())
            except (ValueError, RuntimeError, OSError, TimeoutError) as error:
                raise CollateralFetchError(
                    f"{self._url} gave no collateral: {str(error)[:200] or type(error).__name__}",
                    hint="is the PCCS up, and does it know this platform? Collateral can also be put into the folder",
                ) from error


def read_collateral(path: Path) -> str:
    """Return a file of collateral as text: JSON or PEM as it is, a certificate in DER (an AMD VCEK) as PEM."""
    try:
        data = path.read_bytes()
        return ssl.DER_cert_to_PEM_cert(data) if data[:1] == _DER_SEQUENCE else data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CollateralError(
            f"no collateral at {path}", hint="fetch it from a PCCS, or export it where there is a network"
        ) from error


def _age(path: Path) -> float:
    try:
        return max(time.time() - path.stat().st_mtime, 0)
    except OSError:
        return float("inf")
