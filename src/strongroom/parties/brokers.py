"""The brokers a party trusts: an address, the measurements expected there, and whose root vouches for them.

The settings are the party's own, written on its own machine (spec/4-release.md §3). The vendor is Intel unless the
party named a simulated one, by folder and root digest; nothing a broker says, and no environment variable, adds one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from strongroom.attestation.roles import Role
from strongroom.digests import file_digest
from strongroom.errors import EvidenceError, UsageError
from strongroom.parties.trust import Trust

_MEASUREMENT = re.compile(r"^(sgx:[0-9a-f]{64}|tdx:[0-9a-f]{96})$")
_FIELDS = {"url", "measurements", "vendor"}


class TrustSettingsError(UsageError):
    """What should say whom a party trusts is malformed or contradictory."""


class ChangedRootError(EvidenceError):
    """A simulated vendor's root is not the one that was pinned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelVendor:
    """Intel, by the root compiled into Strongroom; ``collateral`` is the file that holds its current collateral."""

    collateral: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedVendor:
    """A simulated platform's public folder, its root pinned by digest; it vouches for nothing real."""

    platform: Path
    root_digest: str

    @classmethod
    def pin(cls, platform: Path) -> Self:
        """Return the vendor whose root lies in the folder ``platform`` now; raise TrustSettingsError if none does."""
        root = platform / "root.der"
        if not root.is_file():
            raise TrustSettingsError(
                f"{platform} holds no simulated platform's root.der",
                hint="`strongroom broker start --platform DIR` makes one; name that folder",
            )
        return cls(platform=platform.absolute(), root_digest=file_digest(root))

    def verify_root(self) -> None:
        """Raise ChangedRootError unless the folder still holds the pinned root."""
        root = self.platform / "root.der"
        found = file_digest(root) if root.is_file() else "gone"
        if found != self.root_digest:
            raise ChangedRootError(
                f"the simulated root {root} is {found}, pinned is {self.root_digest}",
                step="root",
                hint="another simulated platform has taken its place; if that is right, trust it again by name",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedBroker:
    """One broker: its URL, the measurements each role may show there, and the vendor that must vouch for all of them.

    ``measurements`` has the role ``broker`` at least; an analyst also needs ``driver``.
    """

    url: str
    measurements: Mapping[Role, frozenset[str]]
    vendor: IntelVendor | SimulatedVendor

    def __post_init__(self) -> None:
        if self.url != parse_broker_url(self.url):
            raise TrustSettingsError(f"not a broker's URL: {self.url[:120]!r}", hint="write https://host:port")
        if not self.measurements.get(Role.BROKER):
            raise TrustSettingsError(
                f"no measurement is expected of {self.url}, so nothing could be trusted there",
                hint="name at least one: --measurement broker=sgx:<64 hex digits>; `strongroom measure` prints them",
            )
        for measurement in (text for texts in self.measurements.values() for text in texts):
            if not _MEASUREMENT.match(measurement):
                raise TrustSettingsError(
                    f"not a measurement: {measurement[:120]!r}",
                    hint="write sgx: and 64, or tdx: and 96 lower-case hex digits, as `strongroom measure` prints them",
                )

    @property
    def simulated(self) -> bool:
        """Say whether a simulated vendor vouches for this broker."""
        return isinstance(self.vendor, SimulatedVendor)

    def trust(self) -> Trust:
        """Return what to appraise evidence by; raise ChangedRootError if a pinned simulated root has changed."""
        if isinstance(self.vendor, SimulatedVendor):
            self.vendor.verify_root()
            return Trust.simulated(self.vendor.platform, measurements=self.measurements)
        return Trust.intel(measurements=self.measurements, collateral=self.vendor.collateral)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they stand in the party's file."""
        if isinstance(self.vendor, SimulatedVendor):
            vendor = {"simulated": str(self.vendor.platform), "root_digest": self.vendor.root_digest}
        else:
            vendor = {"intel": str(self.vendor.collateral)}
        measurements = {role.value: sorted(texts) for role, texts in self.measurements.items()}
        return {"url": self.url, "measurements": measurements, "vendor": vendor}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse the settings of one broker; raise TrustSettingsError for anything else."""
        if not isinstance(value, Mapping) or set(value) != _FIELDS or not isinstance(value["url"], str):
            raise TrustSettingsError("a trusted broker is an object with url, measurements and vendor")
        return cls(
            url=value["url"],
            measurements=_parse_measurements(value["measurements"]),
            vendor=_parse_vendor(value["vendor"]),
        )


def read_measurements(single: Sequence[str], *, files: Sequence[Path]) -> dict[Role, frozenset[str]]:
    """Return the measurements in ``single`` (each ``role=measurement``) and in ``files`` (from `measure --json`)."""
    found: dict[Role, frozenset[str]] = {}
    for file in files:
        try:
            value = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise TrustSettingsError(f"{file} is not JSON", hint="make it with `strongroom measure --json`") from error
        more = _parse_measurements(value.get("measurements", value) if isinstance(value, dict) else value)
        found |= {role: found.get(role, frozenset()) | values for role, values in more.items()}
    for text in single:
        role, equals, measurement = text.partition("=")
        if not equals:
            raise TrustSettingsError(f"not ROLE=MEASUREMENT: {text[:120]!r}", hint="write broker=sgx:<64 hex digits>")
        found[Role.parse(role)] = found.get(Role.parse(role), frozenset()) | {measurement}
    return found


def parse_broker_url(text: str) -> str:
    """Return ``https://host:port`` if ``text`` is exactly that; raise TrustSettingsError otherwise."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise TrustSettingsError(f"not a URL: {text[:120]!r}", hint="write https://host:port") from error
    if parts.scheme != "https" or not parts.hostname or port is None or parts.path not in ("", "/") or "@" in text:
        raise TrustSettingsError(
            f"not a broker's URL: {text[:120]!r}", hint="write https://host:port; a broker speaks nothing but TLS"
        )
    if parts.query or parts.fragment:
        raise TrustSettingsError(f"a broker's URL has no query: {text[:120]!r}", hint="write https://host:port")
    return f"https://{parts.netloc}"


def _parse_measurements(value: object) -> dict[Role, frozenset[str]]:
    """Return the measurements by role of a JSON object; each is a text or a list of texts."""
    if not isinstance(value, Mapping):
        raise TrustSettingsError("measurements are an object of roles, as `strongroom measure --json` prints it")
    found = {}
    for role, texts in value.items():
        listed = [texts] if isinstance(texts, str) else texts
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            raise TrustSettingsError(f"the measurements of {role} are not texts")
        found[Role.parse(role)] = frozenset(listed)
    return found


def _parse_vendor(value: object) -> IntelVendor | SimulatedVendor:
    if isinstance(value, Mapping) and all(isinstance(part, str) for part in value.values()):
        if set(value) == {"intel"}:
            return IntelVendor(collateral=Path(value["intel"]))
        if set(value) == {"simulated", "root_digest"}:
            return SimulatedVendor(platform=Path(value["simulated"]), root_digest=value["root_digest"])
    raise TrustSettingsError("a vendor is an object with intel (a file), or with simulated (a folder) and root_digest")
