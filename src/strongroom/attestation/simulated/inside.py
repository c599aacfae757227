"""Use the simulated TEE from inside: ask the platform for evidence, keys and counters over an inherited socket.

It never measures itself and has no say in what its evidence claims; the platform fixed that before it started.
"""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.evidence import Evidence, TeeName
from strongroom.attestation.simulated.enclave import Enclave
from strongroom.attestation.simulated.line import LineError, receive_frame, send_frame
from strongroom.attestation.tee import TeeCapabilityError
from strongroom.errors import StrongroomError

_ANSWER_SECONDS = 30.0

Ask = Callable[[dict[str, Any]], dict[str, Any]]


class SimulatedTee:
    """The TEE that a workload runs in, as the workload sees it."""

    simulated = True

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        identity = self._request("identity")
        if identity["tee"] not in ("sgx", "tdx"):
            raise LineError(f"the simulated TEE says it is {str(identity['tee'])[:20]!r}, expected sgx or tdx")
        self.tee: TeeName = identity["tee"]
        self.own_measurement = str(identity["measurement"])
        self._root = base64.b64decode(identity["root"], validate=True)

    @classmethod
    def inherit(cls, descriptor: int) -> SimulatedTee:
        """Take over the socket that the platform left at ``descriptor``; raise LineError if there is none."""
        try:
            line = socket.socket(fileno=descriptor)
            os.set_inheritable(descriptor, False)  # what this process starts is not this workload
        except OSError as error:
            raise LineError(
                f"file descriptor {descriptor} is not the simulated TEE's socket",
                hint="only the process that a simulated platform starts can use it, not a process started by that one",
            ) from error
        line.settimeout(_ANSWER_SECONDS)
        return cls(_SocketLine(line).ask)

    @classmethod
    def of(cls, enclave: Enclave) -> SimulatedTee:
        """Return the TEE of an enclave in this very process, for tests that play the workload themselves."""
        return cls(enclave.answer)

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes of report data."""
        answer = self._request("quote", report_data=base64.b64encode(report_data).decode())
        return Evidence(tee=self.tee, quote=base64.b64decode(answer["quote"], validate=True))

    def anchor(self) -> TrustAnchor:
        """Return the platform's own root, marked as simulated."""
        return TrustAnchor(root_der=self._root, simulated=True)

    def collateral_source(self) -> SimulatedCollateral:
        """Return where this machine's collateral comes from: the platform."""
        return SimulatedCollateral(self._ask)

    def sealing_terms(self) -> str:
        """Return nothing, or raise TeeCapabilityError in a trust domain, which has no sealing keys."""
        self._check_enclave("sealing keys", hint="let custodians unseal what is kept: --custodian")
        return ""

    def sealing_key(self, label: str, *, terms: str) -> bytes:
        """Return 32 bytes that only the same measurement on the same platform gets for ``label``."""
        self._check_enclave("sealing keys", hint="let custodians unseal what is kept: --custodian")
        if terms:
            raise LineError(f"the simulated TEE seals under no terms, got {terms[:32]!r}")
        return base64.b64decode(self._request("sealing_key", label=label)["key"], validate=True)

    def counter(self, name: str) -> SimulatedCounter:
        """Return the monotonic counter called ``name``, which belongs to this measurement."""
        self._check_enclave("monotonic counters", hint="the parties remember the ledger's checkpoints")
        return SimulatedCounter(self._ask, name)

    def _check_enclave(self, what: str, *, hint: str) -> None:
        """Raise TeeCapabilityError in what stands for a trust domain: TDX's module offers neither."""
        if self.tee != "sgx":
            raise TeeCapabilityError(f"a simulated {self.tee.upper()} has no {what}, as a real one has none", hint=hint)

    def _request(self, call: str, **arguments: str) -> dict[str, Any]:
        return _checked(self._ask({"call": call, **arguments}))


class SimulatedCounter:
    """A number that only grows."""

    def __init__(self, ask: Ask, name: str) -> None:
        self._ask = ask
        self.name = name

    def read(self) -> int:
        """Return the value; 0 if it was never advanced."""
        return int(_checked(self._ask({"call": "counter_read", "name": self.name}))["value"])

    def advance_to(self, value: int) -> None:
        """Set the value, durably; raise unless it grows."""
        _checked(self._ask({"call": "counter_advance", "name": self.name, "value": value}))


class SimulatedCollateral:
    """Collateral for quotes of this machine."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def collateral(self, quote: bytes) -> str:
        """Return QuoteCollateralV3 JSON; the platform knows one machine only, whatever the quote says."""
        del quote
        return str(_checked(self._ask({"call": "collateral"}))["collateral"])


class _SocketLine:
    """One request at a time over the socket; a forked child may not join in."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if os.getpid() != self._owner:
            raise LineError(
                "a forked process has no TEE of its own", hint="ask in the process that the platform started"
            )
        with self._lock:
            send_frame(self._line, request)
            answer = receive_frame(self._line)
        if answer is None:
            raise LineError("the simulated TEE closed the line", hint="its platform process has ended")
        return answer


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise StrongroomError(f"the simulated TEE refused: {answer['error']}", hint=str(answer.get("hint", "")))
    return answer
