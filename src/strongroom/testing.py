"""Stand in for hardware in tests: a simulated platform in a temporary directory, and TEEs in this very process.

For Strongroom's own tests and for those of programs that run on it. Everything here is signed by a throw-away root.
"""

from __future__ import annotations

import json
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import AppraisalPolicy, Verifier
from strongroom.attestation.channel import AttestedChannel, connect
from strongroom.attestation.listener import Listener
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated import Faults, SimulatedPlatform, SimulatedTee
from strongroom.attestation.simulated.platform import TeeKind
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import to_text
from strongroom.statements import SigningKey


@contextmanager
def simulated_platform(*, tee: TeeKind = "sgx", faults: Faults | None = None) -> Iterator[SimulatedPlatform]:
    """Give a fresh simulated platform whose directory is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="strongroom-") as directory:
        yield SimulatedPlatform(Path(directory) / "platform", tee=tee, faults=faults or Faults())


def simulated_tee(
    role: Role | str,
    *,
    platform: SimulatedPlatform,
    job_digest: bytes = b"",
    faults: Faults | None = None,
) -> SimulatedTee:
    """Return the TEE of a workload of ``role`` that this process plays itself; ``job_digest``: 48 bytes or none."""
    text = to_text(job_digest) if job_digest else ""
    return SimulatedTee.of(platform.enclave(role, job_digest=text, faults=faults))


def simulated_verifier(
    platform: SimulatedPlatform, *, policy: AppraisalPolicy | None = None, memory: CollateralMemory | None = None
) -> Verifier:
    """Return a verifier that trusts ``platform`` and takes its collateral."""
    return Verifier(
        TrustAnchor(root_der=platform.root_der, simulated=True),
        PlatformCollateral(platform),
        memory=memory or CollateralMemory(),
        policy=policy,
    )


class PlatformCollateral:
    """Collateral straight from a simulated platform, with the platform's faults."""

    def __init__(self, platform: SimulatedPlatform, *, faults: Faults | None = None) -> None:
        self._platform = platform
        self._faults = faults

    def collateral(self, quote: bytes) -> str:
        """Return QuoteCollateralV3 JSON, current now."""
        del quote
        return self._platform.collateral_json(faults=self._faults)


def listen_as(
    role: Role | str, *, platform: SimulatedPlatform, job_digest: bytes, deadline: float = 15.0, max_pending: int = 32
) -> Listener:
    """Return a listener on a free local port that plays ``role`` in a TEE of ``platform``."""
    return Listener(
        ("127.0.0.1", 0),
        keys=WorkloadKeys.generate(),
        role=Role.parse(role),
        tee=simulated_tee(role, platform=platform, job_digest=job_digest),
        verifier=simulated_verifier(platform),
        job_digest=job_digest,
        deadline=deadline,
        max_pending=max_pending,
    )


def connect_as(
    role: Role | str,
    address: tuple[str, int],
    *,
    platform: SimulatedPlatform,
    job_digest: bytes,
    expected_role: Role | str = Role.DRIVER,
    keys: WorkloadKeys | None = None,
    signer: SigningKey | None = None,
    deadline: float = 15.0,
) -> AttestedChannel:
    """Return a channel to ``address`` from a workload of ``role``, or from the client of the party ``signer``."""
    attester = Role.parse(role)
    return connect(
        address,
        keys=keys or WorkloadKeys.generate(),
        role=attester,
        expected_role=Role.parse(expected_role),
        tee=simulated_tee(attester, platform=platform, job_digest=job_digest) if attester.attests else None,
        signer=signer,
        verifier=simulated_verifier(platform),
        job_digest=job_digest,
        deadline=deadline,
    )


class CollateralDesk(ThreadingHTTPServer):
    """A PCCS on this machine that serves sets of collateral (QuoteCollateralV3 JSON) by TEE, over real HTTP.

    ``asked`` lists the paths asked for. ``answers`` are (status, Retry-After) given before it serves again; ``delay``
    is in seconds before each answer; ``early`` holds the sets of ``update=early``, where they differ.
    """

    daemon_threads = True

    def __init__(self, sets: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str] = []
        self.answers: list[tuple[int, str]] = []
        self.delay = 0.0
        self.sets = {tee: json.loads(text) for tee, text in sets.items()}
        self.early = dict(self.sets)

    @property
    def url(self) -> str:
        """Return the address it listens on."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet when a client with a deadline hangs up."""


@contextmanager
def collateral_desk(sets: dict[str, str]) -> Iterator[CollateralDesk]:
    """Serve ``sets`` (``sgx``, ``tdx``) as a collateral service while the context lasts."""
    with CollateralDesk(sets) as desk:
        thread = threading.Thread(target=desk.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield desk
        finally:
            desk.shutdown()
            thread.join(timeout=10)


class _Answer(BaseHTTPRequestHandler):
    server: CollateralDesk

    def do_GET(self) -> None:
        """Answer one request of the service's API, version 4."""
        desk = self.server
        desk.asked.append(self.path)
        threading.Event().wait(desk.delay)
        if desk.answers:
            status, retry_after = desk.answers.pop(0)
            self.send_response(status)
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        place = urllib.parse.urlsplit(self.path)  # a proxy is asked with the whole URL
        tee, what = place.path.split("/")[1], place.path.split("/")[4]
        sets = desk.early if "update=early" in place.query else desk.sets
        members = sets.get(tee) or next(iter(sets.values()))  # the lists are asked for as SGX's, whatever the TEE
        headers, body = _document(members, what)
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, urllib.parse.quote(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Write no log."""


def _document(members: dict[str, str], what: str) -> tuple[dict[str, str], bytes]:
    if what == "pckcrl":
        return {"SGX-PCK-CRL-Issuer-Chain": members["pck_crl_issuer_chain"]}, bytes.fromhex(members["pck_crl"])
    if what == "rootcacrl":
        return {}, members["root_ca_crl"].encode()
    name, wrapper, header = {
        "tcb": ("tcb_info", "tcbInfo", "TCB-Info-Issuer-Chain"),
        "qe": ("qe_identity", "enclaveIdentity", "SGX-Enclave-Identity-Issuer-Chain"),
    }[what]
    body = f'{{"{wrapper}":{members[name]},"signature":"{members[name + "_signature"]}"}}'
    return {header: members[f"{name}_issuer_chain"]}, body.encode()
