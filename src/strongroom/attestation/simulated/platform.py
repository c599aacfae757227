"""Be the machine of the simulated TEE: measure, start and vouch for workloads, on the host's side.

One directory is one machine: its seed, root, counters and the trees it started. It needs no process of its own: a
thread per workload answers on an inherited socket. It hides nothing from the host, and its root vouches for nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from strongroom.attestation.binding import JOB_DIGEST_BYTES
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.counters import Counters
from strongroom.attestation.simulated.enclave import Enclave
from strongroom.attestation.simulated.faults import NO_FAULTS, Faults
from strongroom.attestation.simulated.line import LineError, receive_frame, send_frame
from strongroom.attestation.simulated.measuring import Tree, installed_package, measure, place_tree, read_tree
from strongroom.attestation.simulated.pki import SEED_BYTES, Vendor
from strongroom.attestation.simulated.process import SimulatedProcess, Spawner, Stream
from strongroom.digests import parse_text
from strongroom.errors import UsageError

TeeKind = Literal["sgx", "tdx"]

_SEED = "seed"


class SimulatedPlatform:
    """A machine with a TEE that protects nothing, kept in ``directory``; ``faults`` are what is wrong with it."""

    simulated = True

    def __init__(
        self, directory: Path, *, tee: TeeKind = "sgx", faults: Faults = NO_FAULTS, quote_version: Literal[4, 5] = 4
    ) -> None:
        if tee not in ("sgx", "tdx"):
            raise UsageError(f"the simulated TEE is sgx or tdx, got {tee!r}")
        self.directory = Path(directory).absolute()
        self.tee: TeeKind = tee
        self._faults = faults
        self._quote_version = quote_version
        self._vendor = Vendor(_load_seed(self.directory))
        self._counters = Counters(self.directory / "counters")
        self._spawner: Spawner | None = None
        self._lock = threading.Lock()

    @classmethod
    def found_in(cls, directory: Path, *, tee: TeeKind = "sgx") -> SimulatedPlatform:
        """Return the platform that a broker started in ``directory``; raise UsageError where none is, and make none."""
        if not (directory / _SEED).is_file():
            raise UsageError(
                f"{directory} holds no simulated platform", hint="name the folder that the broker was started with"
            )
        return cls(directory, tee=tee)

    @property
    def root_der(self) -> bytes:
        """Return the root certificate in DER, which a relying party on this machine pins."""
        return self._vendor.root_der

    def collateral_json(self, *, now: datetime | None = None, faults: Faults | None = None) -> str:
        """Return collateral for this machine's quotes (QuoteCollateralV3 JSON), current at ``now``."""
        chosen = self._faults if faults is None else faults
        vendor = self._vendor.impostor() if chosen.wrong_root else self._vendor
        return vendor.collateral(self.tee, now=now or datetime.now(UTC), faults=chosen)

    def measure(self, role: Role | str, *, package_root: Path | None = None) -> str:
        """Return what a workload started for ``role`` would measure to, without starting it."""
        return measure(Role.parse(role), read_tree(package_root or installed_package())).text(self.tee)

    def enclave(
        self,
        role: Role | str,
        *,
        job_digest: str = "",
        package_root: Path | None = None,
        faults: Faults | None = None,
    ) -> Enclave:
        """Return the platform's side of a workload without starting it, for tests that play the workload themselves."""
        return self._enclave(Role.parse(role), read_tree(package_root or installed_package()), job_digest, faults)

    def start(
        self,
        role: Role | str,
        argv: Sequence[str],
        *,
        job_digest: str = "",
        env: Mapping[str, str] | None = None,
        package_root: Path | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
        faults: Faults | None = None,
    ) -> SimulatedProcess:
        """Measure and start the entry point of ``role`` with ``argv``, and answer for it as long as it lives.

        ``job_digest`` (``sha384:<hex>``) goes into CONFIGID or MRCONFIGID. ``package_root`` starts another copy of the
        package, which then measures differently. ``stdout`` and ``stderr`` are those of ``subprocess.Popen``.
        """
        tree = read_tree(package_root or installed_package())
        enclave = self._enclave(Role.parse(role), tree, job_digest, faults)
        import_root = place_tree(tree, self.directory / "trees")
        self.expose()
        ours, theirs = socket.socketpair()
        try:
            process = self._get_spawner().spawn(
                enclave.measured.entry,
                argv,
                import_root=import_root,
                line=theirs,
                env=env or {},
                stdout=stdout,
                stderr=stderr,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        name = f"simulated-tee-{enclave.measured.role.value}-{process.pid}"
        threading.Thread(target=_serve, args=(enclave, ours), name=name, daemon=True).start()
        return SimulatedProcess(process, measurement=enclave.measurement)

    def expose(self) -> tuple[Path, Path]:
        """Write what a relying party elsewhere needs, ``root.der`` and ``collateral.json``; return both paths."""
        root, collateral = self.directory / "root.der", self.directory / "collateral.json"
        for path, data in ((root, self.root_der), (collateral, self.collateral_json().encode())):
            if not path.is_file() or path.read_bytes() != data:
                _write(path, data, mode=0o644)
        return root, collateral

    def _enclave(self, role: Role, tree: Tree, job_digest: str, faults: Faults | None) -> Enclave:
        chosen = self._faults if faults is None else faults
        return Enclave(
            vendor=self._vendor,
            tee=self.tee,
            measured=measure(role, tree),
            job=_parse_job(job_digest),
            faults=chosen,
            counters=self._counters,
            collateral=lambda: self.collateral_json(faults=chosen),
            quote_version=self._quote_version,
        )

    def _get_spawner(self) -> Spawner:
        with self._lock:
            if self._spawner is None:
                self._spawner = Spawner()
            return self._spawner


def _serve(enclave: Enclave, line: socket.socket) -> None:
    """Answer one workload's requests until it closes its end, which it does at the latest when it dies."""
    with line:
        while True:
            try:
                request = receive_frame(line)
                if request is None:
                    return
                send_frame(line, enclave.answer(request))
            except LineError:
                return


def _parse_job(job_digest: str) -> bytes:
    if not job_digest:
        return b""
    job = parse_text(job_digest)
    if len(job) != JOB_DIGEST_BYTES:
        raise UsageError(f"a job digest is sha384:<hex>, got {job_digest[:20]!r}...")
    return job


def _load_seed(directory: Path) -> bytes:
    """Return the directory's seed, made at the first use; only its owner may read it."""
    path = directory / _SEED
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write(path, secrets.token_bytes(SEED_BYTES), mode=0o600, replace_existing=False)
        seed = path.read_bytes()
        open_to_others = path.stat().st_mode & 0o077
    except OSError as error:
        raise UsageError(
            f"cannot keep a simulated platform in {directory}: {error.strerror}", hint="name a directory you may write"
        ) from error
    if len(seed) != SEED_BYTES or open_to_others:
        raise UsageError(
            f"{path} is not a private file of {SEED_BYTES} bytes",
            hint="move the directory away; a new platform (with another root) is made in its place",
        )
    return seed


def _write(path: Path, data: bytes, *, mode: int, replace_existing: bool = True) -> None:
    """Write a whole file or nothing; without ``replace_existing``, whoever comes first wins."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if replace_existing:
            Path(draft).replace(path)
            return
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        Path(draft).unlink(missing_ok=True)
