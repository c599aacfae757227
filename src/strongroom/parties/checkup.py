"""Look over what attestation needs on this machine: interfaces, collateral, clock, brokers, versions.

Every check says what it found and, where something is wrong, what to do about it. It changes nothing and proves
nothing: an interface that is there need not be genuine, which only a verifier elsewhere can tell.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL

import strongroom
from strongroom.attestation.coco_agent import AGENT_SOCKET
from strongroom.attestation.collateral_bundle import list_expiries
from strongroom.attestation.guests import RUNTIME_REGISTERS
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.pcs import CollateralService
from strongroom.attestation.providers import (
    BOOT_EVENT_LOG,
    GRAMINE_DEVICE,
    SEV_GUEST,
    TPM_DEVICE,
    TSM_REPORTS,
    is_azure,
)
from strongroom.errors import StrongroomError
from strongroom.parties.auditor import Auditor
from strongroom.parties.home import Home

TSM_KERNEL: Final = (6, 7)
REGISTERS_KERNEL: Final = (6, 16)
_TIME_ERROR: Final = 5  # adjtimex: the clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than struct timex has
_TDX_GUEST, _NITRO, _SGX = Path("dev/tdx_guest"), Path("dev/nsm"), Path("dev/sgx_enclave")
_LIBRARIES: Final = ("dcap-qvl", "cryptography", "pyOpenSSL")


class State(StrEnum):
    """How good what was found is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at: what was found, and what to do unless all is well."""

    name: str
    state: State
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the check as JSON values."""
        return {"name": self.name, "state": self.state.value, "found": self.found, "remedy": self.remedy}


def check_versions() -> Iterator[Check]:
    """Say which versions are in use, and whether TLS has what channels need."""
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    found = f"Strongroom {strongroom.__version__}, Python {platform.python_version()}, {libraries}"
    yield Check(name="versions", state=State.OK, found=found)
    has_exporter = hasattr(SSL.Connection, "export_keying_material") and ssl.HAS_TLSv1_3
    yield Check(
        name="tls",
        state=State.OK if has_exporter else State.FAIL,
        found=f"{ssl.OPENSSL_VERSION}, TLS 1.3 with exporter" if has_exporter else "no TLS 1.3 exporter",
        remedy="" if has_exporter else "install pyOpenSSL 26 or later over OpenSSL 3: channels fail closed without it",
    )


def check_interfaces(*, root: Path = Path("/"), release: str | None = None) -> Iterator[Check]:
    """Say which TEE interfaces are here; ``root`` is where they are looked for, ``release`` the kernel's."""
    kernel = _numbers(platform.release() if release is None else release)
    gramine, reports = root / GRAMINE_DEVICE, root / TSM_REPORTS
    found = False
    if gramine.is_dir():
        found = True
        yield _gramine(gramine)
    if reports.is_dir():
        found = True
        which = "SEV-SNP" if (root / SEV_GUEST).exists() else "TDX"
        yield Check(name="tee", state=State.OK, found=f"{which} guest with configfs-tsm at {reports}")
        if which == "TDX":
            yield from _trust_domain(root, kernel)
    elif any((root / device).exists() for device in (_TDX_GUEST, SEV_GUEST)):
        found = True
        old = kernel < TSM_KERNEL
        yield Check(
            name="tee",
            state=State.FAIL,
            found=f"a confidential guest without configfs-tsm, Linux {'.'.join(map(str, kernel))}",
            remedy="update to Linux 6.7 or later" if old else "mount -t configfs none /sys/kernel/config",
        )
    for path, name in ((AGENT_SOCKET, "Confidential Containers agent"), (_NITRO, "Nitro security module")):
        if (root / path).exists():
            found = True
            yield Check(name="tee", state=State.OK, found=f"{name} at {root / path}")
    if (root / TPM_DEVICE).exists() and is_azure(root):
        found = True
        said = f"a machine of Azure's with a TPM at {root / TPM_DEVICE}; whether a confidential one, its evidence says"
        yield Check(name="tee", state=State.OK, found=said)
    if not found:
        beside = [str(root / path) for path in (_SGX, TPM_DEVICE) if (root / path).exists()]
        yield Check(
            name="tee",
            state=State.WARN,
            found="no TEE that Strongroom can speak to" + (f" ({', '.join(beside)} is here)" if beside else ""),
            remedy="workloads started here run in the simulated TEE, which protects nothing; a verifier needs no TEE",
        )


def check_collateral(folder: Path, *, now: datetime) -> Iterator[Check]:
    """Say how fresh the collateral in ``folder`` is: one check per set, judged by what runs out first."""
    try:
        expiries = list_expiries(folder, now=now)
    except StrongroomError as error:
        yield Check(name="collateral", state=State.FAIL, found=error.message, remedy=error.hint)
        return
    if not expiries:
        yield Check(
            name="collateral",
            state=State.WARN,
            found=f"{folder} holds no collateral",
            remedy="fetch it: strongroom attest collateral fetch FOLDER QUOTE",
        )
    states = {"ok": State.OK, "soon": State.WARN, "urgent": State.WARN, "expired": State.FAIL}
    for name in dict.fromkeys(one.set_name for one in expiries):
        first = next(one for one in expiries if one.set_name == name)
        days = first.left / timedelta(days=1)
        said = f"{name}: {first.document} {'ran' if days <= 0 else 'runs'} out at {first.expires:%FT%TZ}"
        remedy = "" if first.state == "ok" else "fetch it again: strongroom attest collateral fetch"
        yield Check(name="collateral", state=states[first.state], found=f"{said} ({days:.1f} days)", remedy=remedy)


def check_clock(*, now: datetime, memory: Path | None = None, ask: Callable[[], int] | None = None) -> Iterator[Check]:
    """Say whether the clock is synchronised, and not behind what a collateral ``memory`` has seen."""
    synchronised = (ask or _ask_kernel)() != _TIME_ERROR
    yield Check(
        name="clock",
        state=State.OK if synchronised else State.WARN,
        found=f"{now:%FT%TZ}, {'synchronised' if synchronised else 'not synchronised as far as the kernel knows'}",
        remedy="" if synchronised else "run an NTP client: a clock set back makes expired collateral look current",
    )
    if memory is None:
        return
    try:
        seen = CollateralMemory.at(memory).latest
    except StrongroomError as error:
        yield Check(name="memory", state=State.FAIL, found=error.message, remedy=error.hint)
        return
    behind = seen is not None and now < seen - timedelta(minutes=5)
    yield Check(
        name="memory",
        state=State.FAIL if behind else State.OK,
        found=f"{memory} has seen {seen:%FT%TZ}" if seen else f"{memory} has seen nothing yet",
        remedy="the clock is behind that: set it right, verification refuses until then" if behind else "",
    )


def check_service(url: str, *, proxy: str = "", now: datetime) -> Iterator[Check]:
    """Say whether a collateral service answers, and whether its clock agrees with ours."""
    try:
        date = CollateralService(url, proxy=proxy, attempts=1, deadline=timedelta(seconds=10)).look()
    except StrongroomError as error:
        yield Check(name="service", state=State.FAIL, found=error.message, remedy=error.hint)
        return
    apart = abs(now - date) if date else timedelta(0)
    agrees = apart <= timedelta(minutes=5)
    yield Check(
        name="service",
        state=State.OK if agrees else State.FAIL,
        found=f"{url} answers" + ("" if agrees else f", its clock is {apart} away from ours"),
        remedy="" if agrees else "set this machine's clock right, or the service's",
    )


def check_brokers(home: Home) -> Iterator[Check]:
    """Attest every broker that a party trusts, over a connection of its own."""
    try:
        brokers = home.brokers()
    except StrongroomError as error:
        yield Check(name="broker", state=State.FAIL, found=error.message, remedy=error.hint)
        return
    if not brokers:
        remedy = "trust one if you need one: strongroom broker trust URL --measurement MEASUREMENT"
        yield Check(name="broker", state=State.WARN, found=f"{home.directory} trusts no broker", remedy=remedy)
    for one in brokers:
        try:
            client = Auditor(trust=one.trust(), memory=home.memory(one)).attest_broker(one.url)
            client.close()
        except StrongroomError as error:
            yield Check(name="broker", state=State.FAIL, found=f"{one.url}: {error.message}", remedy=error.hint)
            continue
        marked = ", simulated: it protects nothing" if one.simulated else ""
        yield Check(name="broker", state=State.OK, found=f"{one.url} answers and is attested{marked}")


def _gramine(device: Path) -> Check:
    kind = _text(device / "attestation_type")
    good = kind == "dcap"
    return Check(
        name="tee",
        state=State.OK if good else State.FAIL,
        found=f"SGX enclave under Gramine, attestation type {kind or 'unknown'}",
        remedy="" if good else 'set sgx.remote_attestation = "dcap" in the manifest and run gramine-sgx',
    )


def _trust_domain(root: Path, kernel: tuple[int, ...]) -> Iterator[Check]:
    registers = (root / RUNTIME_REGISTERS).is_dir()
    newer = "update to Linux 6.16 or later" if kernel < REGISTERS_KERNEL else "enable the guest's measurement registers"
    yield Check(
        name="registers",
        state=State.OK if registers else State.WARN,
        found="runtime registers can be extended" if registers else "runtime registers cannot be extended",
        remedy="" if registers else newer,
    )
    log = (root / BOOT_EVENT_LOG).is_file()
    yield Check(
        name="event log",
        state=State.OK if log else State.WARN,
        found="the boot event log is readable" if log else "no boot event log",
        remedy="" if log else "boot with a firmware that keeps one (CCEL); without it RTMR0-RTMR2 can only be compared",
    )


def _ask_kernel() -> int:
    """Return what adjtimex says of the clock, asking for nothing to be changed."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (OSError, AttributeError):
        return _TIME_ERROR


def _numbers(release: str) -> tuple[int, ...]:
    head = release.split("-", maxsplit=1)[0].split("+", maxsplit=1)[0].split(".")[:2]
    return tuple(int(part) for part in head if part.isdecimal())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()[:20]
    except (OSError, UnicodeDecodeError):
        return ""


def summarise(checks: tuple[Check, ...]) -> dict[str, Any]:
    """Return the checks and how many are in each state, as JSON values."""
    counts = {state.value: sum(one.state is state for one in checks) for state in State}
    return {"checks": [one.to_json() for one in checks], **counts}
