"""Find the TEE that this process runs in and speak its interface: Gramine SGX, a TDX or SEV-SNP guest, or simulated.

Every returned quote is checked to carry the report data that was asked for. Real TEEs are anchored in their vendors'
roots, compiled in; a process that sees a real TEE never becomes a simulated one, whatever its environment says.
"""

from __future__ import annotations

import functools
import os
import threading
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.appraisal import CollateralSource
from strongroom.attestation.azure_guest import AzureGuest
from strongroom.attestation.coco_agent import AGENT_SOCKET, Agent, SocketAgent, ask_agent
from strongroom.attestation.collateral_sources import CollateralFolder
from strongroom.attestation.derived_key import GuestDevice, KeyRequest, SevGuest, derive_key
from strongroom.attestation.evidence import Evidence, TeeName, parse_quote
from strongroom.attestation.evidence.azure import measurement_of, parse_azure
from strongroom.attestation.evidence.snp import SnpReport, parse_snp_report
from strongroom.attestation.guests import REPORT_DATA_BYTES, Reports, ask_kernel, check_quote, check_report
from strongroom.attestation.simulated import FD_VARIABLE, SimulatedTee
from strongroom.attestation.tee import (
    MonotonicCounter,
    NoTeeError,
    Tee,
    TeeCapabilityError,
    TeeDeviceError,
)
from strongroom.attestation.tpm import Tpm, TpmDevice
from strongroom.errors import UsageError

GRAMINE_DEVICE = Path("dev/attestation")
TSM_REPORTS = Path("sys/kernel/config/tsm/report")
SEV_GUEST = Path("dev/sev-guest")
TPM_DEVICE = Path("dev/tpmrm0")
CHASSIS_TAG = Path("sys/class/dmi/id/chassis_asset_tag")
COLLATERAL = Path("etc/strongroom/collateral")
BOOT_EVENT_LOG = Path("sys/firmware/acpi/tables/data/CCEL")

_AZURE_TAG = b"7783-7084-3265-9085-8269-3286-77"
_GRAMINE_SEALING_BYTES = 16
_FIRST_PAUSE = 0.02  # doubled after every attempt: 1.3 s in all


def detect(*, collateral: CollateralSource | None = None, root: Path = Path("/")) -> Tee:
    """Return the TEE that this process runs in; raise NoTeeError if there is none.

    ``collateral`` is where a real TEE's collateral comes from: by default the folder /etc/strongroom/collateral, if it
    is there; vendors signed what is in it. ``root`` is where ``/dev``, ``/sys`` and ``/etc`` are looked for.
    """
    if collateral is None and (root / COLLATERAL).is_dir():
        collateral = CollateralFolder(root / COLLATERAL)
    gramine, reports, agent = root / GRAMINE_DEVICE, root / TSM_REPORTS, root / AGENT_SOCKET
    real = [path for path in (gramine, reports) if path.is_dir()] + [path for path in (agent,) if path.is_socket()]
    vtpm = root / TPM_DEVICE
    if vtpm.exists() and is_azure(root):
        real.append(vtpm)
    descriptor = os.environ.get(FD_VARIABLE)
    if descriptor is not None:
        if real:
            raise NoTeeError(
                f"{FD_VARIABLE} is set although {real[0]} says that this is a real TEE",
                hint="a real TEE is never replaced by a simulated one; start the workload without that variable",
            )
        return _inherit_simulated(descriptor)
    if gramine in real:
        return GramineTee(gramine, collateral=collateral)
    if reports in real and ((root / SEV_GUEST).exists() or _provider(TsmReports(reports)) == b"sev_guest"):
        return SnpTee(TsmReports(reports), device=SevGuest(root / SEV_GUEST), collateral=collateral)
    if reports in real:
        return TdxTee(TsmReports(reports), collateral=collateral, event_log=root / BOOT_EVENT_LOG)
    if vtpm in real:
        return AzureTee(AzureGuest(Tpm(TpmDevice(vtpm))), collateral=collateral)
    if agent in real:
        return CocoTee(SocketAgent(agent), collateral=collateral)
    raise NoTeeError(
        f"no TEE here: neither {gramine}, {reports} nor {agent} exists, and no simulated platform started this process",
        hint="start it through a launcher, or in an SGX enclave (Gramine) or a TDX guest with configfs-tsm mounted",
    )


@functools.lru_cache(maxsize=1)
def _inherit_simulated(descriptor: str) -> SimulatedTee:
    """Take over the inherited socket once; later calls return the same TEE."""
    if not descriptor.isdecimal():
        raise NoTeeError(f"{FD_VARIABLE} is {descriptor[:20]!r}, expected the number of a file descriptor")
    return SimulatedTee.inherit(int(descriptor))


class _RealTee:
    """What real TEEs share: the compiled-in roots, and collateral from where the relying party said."""

    simulated = False

    def __init__(self, collateral: CollateralSource | None) -> None:
        self._collateral = collateral

    def anchor(self) -> TrustAnchor:
        """Return the genuine anchor, which stands for every compiled-in root."""
        return INTEL

    def collateral_source(self) -> CollateralSource:
        """Return the source named at the start; raise UsageError if none was."""
        if self._collateral is None:
            raise UsageError(
                "no source of collateral is configured for this TEE",
                hint=f"put it into /{COLLATERAL}: strongroom attest collateral fetch, or import",
            )
        return self._collateral

    def counter(self, name: str) -> MonotonicCounter:
        """Raise TeeCapabilityError: neither Gramine nor a guest has a counter that the host cannot turn back."""
        raise TeeCapabilityError(
            f"this TEE has no monotonic counter for {name!r}",
            hint="rollback is then noticed by the parties, who remember the ledger's checkpoints",
        )


class GramineTee(_RealTee):
    """An SGX enclave under Gramine, through the files of its pseudo file system (Gramine: attestation and keys)."""

    tee: TeeName = "sgx"

    def __init__(self, device: Path, *, collateral: CollateralSource | None) -> None:
        super().__init__(collateral)
        self._device = device
        self._lock = threading.Lock()  # the files are one per process, without a lock of their own
        kind = _read(device / "attestation_type").strip()
        if kind != b"dcap":
            raise NoTeeError(
                f"Gramine attests with {kind[:20]!r}, expected dcap",
                hint='set sgx.remote_attestation = "dcap" in the manifest and run gramine-sgx, not gramine-direct',
            )

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data."""
        _check_length(report_data)
        with self._lock:
            _write(self._device / "user_report_data", report_data)
            quote = _read(self._device / "quote")
        return Evidence(tee=self.tee, quote=check_quote(quote, report_data))

    @functools.cached_property
    def own_measurement(self) -> str:
        """Return the enclave's own MRENCLAVE as policies name it."""
        return parse_quote(self.evidence(bytes(REPORT_DATA_BYTES)).quote).measurement

    def sealing_terms(self) -> str:
        """Return nothing: the CPU's key follows from MRENCLAVE and the CPU's own security version."""
        return ""

    def sealing_key(self, label: str, *, terms: str) -> bytes:
        """Return 32 bytes derived from the CPU's key for this MRENCLAVE (128 bits of strength)."""
        _check_no_terms(terms)
        key = _read(self._device / "keys" / "_sgx_mrenclave")
        if len(key) != _GRAMINE_SEALING_BYTES:
            raise TeeDeviceError(f"the MRENCLAVE key has {_GRAMINE_SEALING_BYTES} bytes, got {len(key)}")
        return _sealing_key(key, label)


class TsmReports:
    """The kernel's configfs-tsm folder (Linux: Documentation/ABI/testing/configfs-tsm-report)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self, name: str) -> None:
        """Make a report entry, which the kernel fills with its files."""
        (self._path / name).mkdir()

    def write(self, name: str, file: str, data: bytes) -> None:
        """Write one file of an entry."""
        (self._path / name / file).write_bytes(data)

    def read(self, name: str, file: str) -> bytes:
        """Read one file of an entry."""
        return (self._path / name / file).read_bytes()

    def remove(self, name: str) -> None:
        """Remove an entry; rmdir alone, since the files in it are the kernel's."""
        (self._path / name).rmdir()


class _GuestTee(_RealTee):
    """A confidential guest without a sealing key, which is any but SEV-SNP's own."""

    tee: TeeName

    def sealing_terms(self) -> str:
        """Raise TeeCapabilityError: no key that the guest alone can derive follows from what was measured."""
        raise TeeCapabilityError(
            f"{self.tee.upper()} has no sealing keys",
            hint="let custodians unseal what is kept: --custodian, and `strongroom unseal`",
        )

    def sealing_key(self, label: str, *, terms: str) -> bytes:
        """Raise TeeCapabilityError, as :meth:`sealing_terms` does."""
        raise TeeCapabilityError(f"{self.tee.upper()} has no sealing key for {label!r} ({terms or 'no terms'})")


class TdxTee(_GuestTee):
    """A TDX guest, through configfs-tsm; Linux 6.7 or later."""

    tee: TeeName = "tdx"

    def __init__(
        self,
        reports: Reports,
        *,
        collateral: CollateralSource | None,
        event_log: Path,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        super().__init__(collateral)
        self._first_pause = first_pause
        self._reports = reports
        self._event_log = event_log

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data, with the boot event log; retry a bounded time while busy."""
        _check_length(report_data)
        answer = ask_kernel(self._reports, report_data, provider=b"tdx_guest", first_pause=self._first_pause)
        log = self._event_log.read_bytes() if self._event_log.is_file() else b""
        return Evidence(tee=self.tee, quote=check_quote(answer.outblob, report_data), event_log=log)

    @functools.cached_property
    def own_measurement(self) -> str:
        """Return the trust domain's own registers as policies name them."""
        return parse_quote(self.evidence(bytes(REPORT_DATA_BYTES)).quote).measurement


class SnpTee(_RealTee):
    """An SEV-SNP guest, through configfs-tsm; Linux 6.7 or later. ``vmpl`` is the privilege level to report.

    ``device`` is the kernel's line to the firmware, which derives sealing keys.
    """

    tee: TeeName = "snp"

    def __init__(
        self,
        reports: Reports,
        *,
        device: GuestDevice,
        collateral: CollateralSource | None,
        vmpl: int = 0,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        super().__init__(collateral)
        self._first_pause = first_pause
        self._reports = reports
        self._device = device
        self._vmpl = vmpl

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data, with the certificates that the host offers."""
        _check_length(report_data)
        answer = ask_kernel(
            self._reports,
            report_data,
            provider=b"sev_guest",
            extra=(("privlevel", str(self._vmpl).encode()),),
            auxiliary=True,
            first_pause=self._first_pause,
        )
        return Evidence(tee=self.tee, quote=check_report(answer, report_data))

    @functools.cached_property
    def own_measurement(self) -> str:
        """Return the guest's own launch digest as policies name it."""
        return self._report().measurement

    def sealing_terms(self) -> str:
        """Return the firmware's committed TCB version in hex: what it can no longer be taken back behind."""
        return self._report().committed_tcb.hex()

    def sealing_key(self, label: str, *, terms: str) -> bytes:
        """Return 32 bytes derived from the chip's key for the firmware version ``terms`` and what was launched."""
        try:
            request = KeyRequest(tcb=bytes.fromhex(terms), vmpl=self._vmpl)
            key = derive_key(self._device, request)
        except ValueError as error:
            raise TeeDeviceError(f"{terms[:32]!r} is no TCB version in hex") from error
        return _sealing_key(key, label)

    def _report(self) -> SnpReport:
        return parse_snp_report(self.evidence(bytes(REPORT_DATA_BYTES)).quote)


class _ToldTee(_GuestTee):
    """A guest that learns which TEE it is in from the first evidence that somebody makes for it."""

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data."""
        raise NotImplementedError

    @functools.cached_property
    def tee(self) -> TeeName:  # type: ignore[override]  # other guests know it beforehand
        """Return which TEE it is."""
        return self._own.tee

    @functools.cached_property
    def own_measurement(self) -> str:
        """Return what this guest measures to, as policies name it."""
        own = self._own
        return (
            measurement_of(parse_azure(own.quote))
            if own.tee.startswith("azure")
            else parse_quote(own.quote).measurement
        )

    @functools.cached_property
    def _own(self) -> Evidence:
        return self.evidence(bytes(REPORT_DATA_BYTES))


class CocoTee(_ToldTee):
    """A guest whose attestation agent speaks for it: a pod of Confidential Containers."""

    def __init__(self, agent: Agent, *, collateral: CollateralSource | None) -> None:
        super().__init__(collateral)
        self._agent = agent

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data, as the agent's own TEE makes it."""
        _check_length(report_data)
        return ask_agent(self._agent, report_data)


class AzureTee(_ToldTee):
    """A guest above Azure's paravisor, which speaks through its vTPM."""

    def __init__(self, guest: AzureGuest, *, collateral: CollateralSource | None) -> None:
        super().__init__(collateral)
        self._guest = guest
        self._lock = threading.Lock()  # the guest has one index to write report data into

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data; takes the paravisor some seconds."""
        _check_length(report_data)
        with self._lock:
            made = self._guest.evidence(report_data)
        return Evidence(tee=parse_azure(made).tee, quote=made)


def _provider(reports: TsmReports) -> bytes:
    """Return who makes configfs-tsm's reports; a container in an SEV-SNP guest may be there without the device."""
    name = f"strongroom-{uuid.uuid4()}"
    try:
        reports.make(name)
        try:
            return reports.read(name, "provider").strip()
        finally:
            reports.remove(name)
    except OSError:
        return b""


def is_azure(root: Path) -> bool:
    """Say whether the firmware says that this is a machine of Azure's."""
    try:
        return (root / CHASSIS_TAG).read_bytes().strip() == _AZURE_TAG
    except OSError:
        return False


def _sealing_key(key: bytes, label: str) -> bytes:
    info = f"strongroom/sealing/v1/{label}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(key)


def _check_no_terms(terms: str) -> None:
    if terms:
        raise TeeDeviceError(
            f"what is kept was sealed under terms of another kind of TEE: {terms[:32]!r}",
            hint="bring back the store of this machine",
        )


def _check_length(report_data: bytes) -> None:
    if len(report_data) != REPORT_DATA_BYTES:
        raise UsageError(f"report data has {REPORT_DATA_BYTES} bytes, got {len(report_data)}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TeeDeviceError(f"cannot read {path}: {error.strerror}", hint="is this an SGX enclave?") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise TeeDeviceError(f"cannot write {path}: {error.strerror}", hint="is this an SGX enclave?") from error
