"""Speak the kernel's interface for confidential guests, configfs-tsm: TDX and SEV-SNP, and TDX's runtime registers.

Sources: Linux, Documentation/ABI/testing/configfs-tsm-report and sysfs-devices-virtual-misc-tdx_guest. A report leaves
only if it answers what was asked.
"""

from __future__ import annotations

import errno
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from strongroom.attestation.evidence import parse_quote
from strongroom.attestation.evidence.snp import REPORT_BYTES, parse_certificate_table, parse_snp_report
from strongroom.attestation.tee import NoTeeError, TeeDeviceError
from strongroom.digests import same
from strongroom.errors import EvidenceError, UsageError

REPORT_DATA_BYTES: Final = 64
REGISTER_BYTES: Final = 48
RUNTIME_REGISTERS: Final = Path("sys/devices/virtual/misc/tdx_guest/measurements")
_ATTEMPTS: Final = 6
_EXTENDABLE: Final = (2, 3)  # the firmware and the boot loader own RTMR0 and RTMR1


class Reports(Protocol):
    """A configfs-tsm folder, or its emulation."""

    def make(self, name: str) -> None:
        """Make a report entry, which the kernel fills with its files."""
        ...

    def write(self, name: str, file: str, data: bytes) -> None:
        """Write one file of an entry."""
        ...

    def read(self, name: str, file: str) -> bytes:
        """Read one file of an entry."""
        ...

    def remove(self, name: str) -> None:
        """Remove an entry."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TsmAnswer:
    """What the kernel gave: the quote or report, and beside an SNP report the host's certificate table."""

    outblob: bytes
    auxblob: bytes


def ask_kernel(
    reports: Reports,
    report_data: bytes,
    *,
    provider: bytes,
    extra: Sequence[tuple[str, bytes]] = (),
    auxiliary: bool = False,
    first_pause: float,
    sleep: Callable[[float], None] = time.sleep,
) -> TsmAnswer:
    """Return one answer of configfs-tsm; retry a bounded time while it is busy or somebody else writes into our entry.

    ``extra`` are files to write before the report data. Raise TeeDeviceError, or NoTeeError for another provider.
    """
    pause = first_pause
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            answer = _ask_once(reports, report_data, provider=provider, extra=extra, auxiliary=auxiliary)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EAGAIN, errno.EINTR) or attempt == _ATTEMPTS:
                raise TeeDeviceError(
                    f"configfs-tsm gave no report after {attempt} attempts: {error.strerror}",
                    hint="check that the report generation service of the host answers",
                ) from error
        else:
            if answer is not None:
                return answer
        sleep(pause)
        pause *= 2
    raise TeeDeviceError(
        f"configfs-tsm's report entry was changed by somebody else {_ATTEMPTS} times",
        hint="another process in this guest writes into our report entry",
    )


def _ask_once(
    reports: Reports, report_data: bytes, *, provider: bytes, extra: Sequence[tuple[str, bytes]], auxiliary: bool
) -> TsmAnswer | None:
    """Return one answer, or None if somebody else touched the entry meanwhile."""
    name = f"strongroom-{uuid.uuid4()}"
    reports.make(name)
    try:
        found = reports.read(name, "provider").strip()
        if found != provider:
            raise NoTeeError(f"configfs-tsm is provided by {found[:20]!r}, expected {provider.decode()}")
        for file, value in extra:
            reports.write(name, file, value)
        reports.write(name, "inblob", report_data)
        outblob = reports.read(name, "outblob")
        auxblob = reports.read(name, "auxblob") if auxiliary else b""
        generation = reports.read(name, "generation").strip()
        ours = str(1 + len(extra)).encode()  # every write counts; one more was not ours
        return TsmAnswer(outblob=outblob, auxblob=auxblob) if generation == ours else None
    finally:
        reports.remove(name)


def check_quote(quote: bytes, report_data: bytes) -> bytes:
    """Return the quote if it answers what was asked; another process's answer must not leave this one."""
    try:
        answered = parse_quote(quote).report_data
    except EvidenceError as error:
        raise TeeDeviceError("the TEE returned something that is not a quote") from error
    if not same(answered, report_data):
        raise TeeDeviceError("the TEE returned a quote over other report data", hint="ask again")
    return quote


def check_report(answer: TsmAnswer, report_data: bytes) -> bytes:
    """Return an SNP report if it answers the question, followed by the host's certificate table if that is sound."""
    try:
        report = parse_snp_report(answer.outblob[:REPORT_BYTES])
    except EvidenceError as error:
        raise TeeDeviceError("the TEE returned something that is not an SEV-SNP report") from error
    if len(answer.outblob) != REPORT_BYTES or not same(report.report_data, report_data):
        raise TeeDeviceError("the TEE returned a report over other report data", hint="ask again")
    try:
        parse_certificate_table(answer.auxblob)
    except EvidenceError:  # the table is the host's: useful if sound, and no reason to fail if not
        return answer.outblob
    return answer.outblob + answer.auxblob


class RuntimeRegister:
    """One of a trust domain's runtime measurement registers; Linux 6.16 or later.

    Extending is for good: the register ends as SHA-384(old value, digest), and nothing turns it back but a restart.
    """

    def __init__(self, index: int, *, root: Path = Path("/")) -> None:
        if index not in _EXTENDABLE:
            raise UsageError(
                f"RTMR{index} is not the workload's to extend", hint="use 3, or 2 for the operating system"
            )
        self.index = index
        self._path = root / RUNTIME_REGISTERS / f"rtmr{index}:sha384"

    def read(self) -> bytes:
        """Return the register's 48 bytes."""
        try:
            value = self._path.read_bytes()
        except OSError as error:
            raise TeeDeviceError(
                f"cannot read {self._path}: {error.strerror}", hint="is this a TDX guest with Linux 6.16 or later?"
            ) from error
        if len(value) != REGISTER_BYTES:
            raise TeeDeviceError(f"RTMR{self.index} has {REGISTER_BYTES} bytes, got {len(value)}")
        return value

    def extend(self, digest: bytes) -> bytes:
        """Extend the register by a SHA-384 digest and return its new value; raise TeeDeviceError if it did not."""
        if len(digest) != REGISTER_BYTES:
            raise UsageError(f"a register is extended by {REGISTER_BYTES} bytes, got {len(digest)}")
        expected = hashlib.sha384(self.read() + digest).digest()
        try:
            with self._path.open("r+b", buffering=0) as register:
                register.write(digest)
        except OSError as error:
            raise TeeDeviceError(f"cannot extend RTMR{self.index}: {error.strerror}") from error
        value = self.read()
        if not same(value, expected):
            raise TeeDeviceError(
                f"RTMR{self.index} is not what our extension leads to",
                hint="somebody else extends this register at the same time; keep one writer and its log",
            )
        return value


def replay_extensions(digests: tuple[bytes, ...]) -> bytes:
    """Return what a register holds after ``digests``, starting from zero: how a verifier checks a runtime log."""
    value = bytes(REGISTER_BYTES)
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value
