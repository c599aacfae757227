"""Ask the collateral source once a minute per platform instead of once per attestation.

What is kept is the source's text; every use of it is verified anew, and the verifier's memory refuses older ones.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from strongroom.attestation.appraisal import CollateralSource

SECONDS = 60.0
MAX_PLATFORMS = 1024
_CHAIN = b"-----BEGIN CERTIFICATE-----"


class RecentCollateral:
    """A source that remembers for a minute what another source said about a platform."""

    def __init__(self, source: CollateralSource, *, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def collateral(self, quote: bytes) -> str:
        """Return the collateral for the platform whose certificate chain the quote carries."""
        start = quote.find(_CHAIN)
        if start < 0:  # A platform named by number only: there is nothing here to recognise it by.
            return self._source.collateral(quote)
        platform = hashlib.sha256(quote[start:].rstrip(b"\0")).digest()
        now = self._clock()
        kept = self._kept.get(platform)
        if kept is not None and now - kept[0] < SECONDS:
            return kept[1]
        text = self._source.collateral(quote)
        self._kept[platform] = (now, text)
        self._kept.move_to_end(platform)
        while len(self._kept) > MAX_PLATFORMS:
            self._kept.popitem(last=False)
        return text
