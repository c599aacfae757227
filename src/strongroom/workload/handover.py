"""The messages between client, driver, workers and egress, over attested channels only (spec/3-job.md §6).

Each is parsed at the door into a frozen value; a message of another shape is an error, never a guess.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from strongroom.envelope.hpke import PUBLIC_BYTES as KEM_BYTES
from strongroom.errors import EvidenceError, RefusedError, StrongroomError, TransportError, UsageError

_MAX_MEASUREMENTS = 64


class MessageError(TransportError):
    """The other side of an attested channel sent a message of the wrong shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where the broker is and what it must measure as; the address is a hint, the measurements decide."""

    url: str
    measurements: tuple[str, ...]

    def encode(self) -> dict[str, Any]:
        """Return the address as it travels."""
        return {"url": self.url, "measurements": list(self.measurements)}

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse an address; raise MessageError otherwise."""
        fields = expect(value, "url", "measurements")
        measurements = fields["measurements"]
        if not isinstance(measurements, list) or not 0 < len(measurements) <= _MAX_MEASUREMENTS:
            raise MessageError("a broker address names 1 to 64 measurements")
        return cls(url=str(fields["url"]), measurements=tuple(str(one) for one in measurements))


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What the analyst's client gives an attested driver: the signed job, its program, the ticket and the broker.

    ``checkpoint`` is the last ledger checkpoint the client remembers, so that a broker rolled back behind it is refused
    by the driver too. ``report_to`` is the analyst's KEM key, which the driver's last report is sealed to.
    """

    statement: str
    program: bytes
    ticket: Mapping[str, Any]
    broker: BrokerAddress
    checkpoint: str
    report_to: bytes

    def encode(self) -> dict[str, Any]:
        """Return the handover as it travels."""
        return {
            "type": "job",
            "statement": self.statement,
            "program": base64.b64encode(self.program).decode(),
            "ticket": dict(self.ticket),
            "broker": self.broker.encode(),
            "checkpoint": self.checkpoint,
            "report_to": base64.b64encode(self.report_to).decode(),
        }

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse a handover; raise MessageError otherwise."""
        names = ("statement", "program", "ticket", "broker", "checkpoint", "report_to")
        fields = expect(value, *names, type_="job")
        ticket = fields["ticket"]
        if not isinstance(ticket, dict):
            raise MessageError("the ticket is not an object")
        return cls(
            statement=str(fields["statement"]),
            program=unbase64(fields["program"]),
            ticket=ticket,
            broker=BrokerAddress.decode(fields["broker"]),
            checkpoint=str(fields["checkpoint"]),
            report_to=_kem_key(fields["report_to"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the driver tells a member that it admits: who it may say it is, for which job, and where the broker is."""

    admission: str
    statement: str
    broker: BrokerAddress
    checkpoint: str
    member: int

    def encode(self) -> dict[str, Any]:
        """Return the admission as it travels."""
        return {
            "type": "admitted",
            "admission": self.admission,
            "statement": self.statement,
            "broker": self.broker.encode(),
            "checkpoint": self.checkpoint,
            "member": self.member,
        }

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse an admission; raise MessageError otherwise, with the driver's reasons if it refused."""
        fields = expect(value, "admission", "statement", "broker", "checkpoint", "member", type_="admitted")
        return cls(
            admission=str(fields["admission"]),
            statement=str(fields["statement"]),
            broker=BrokerAddress.decode(fields["broker"]),
            checkpoint=str(fields["checkpoint"]),
            member=int(fields["member"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJoin:
    """What an admitted worker needs to start its executor: the cluster secret and where the scheduler listens."""

    secret: bytes
    driver_url: str
    app_id: str
    executor_id: int
    cores: int
    memory: str

    def encode(self) -> dict[str, Any]:
        """Return the message as it travels, over the attested channel only."""
        return {
            "type": "cluster",
            "secret": base64.b64encode(self.secret).decode(),
            "driver_url": self.driver_url,
            "app_id": self.app_id,
            "executor_id": self.executor_id,
            "cores": self.cores,
            "memory": self.memory,
        }

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse the message; raise MessageError otherwise."""
        names = ("secret", "driver_url", "app_id", "executor_id", "cores", "memory")
        fields = expect(value, *names, type_="cluster")
        return cls(
            secret=unbase64(fields["secret"]),
            driver_url=str(fields["driver_url"]),
            app_id=str(fields["app_id"]),
            executor_id=int(fields["executor_id"]),
            cores=int(fields["cores"]),
            memory=str(fields["memory"]),
        )

    def __repr__(self) -> str:
        return f"ClusterJoin(app_id={self.app_id!r}, executor_id={self.executor_id})"


ATTACH: dict[str, Any] = {"type": "attach"}


def is_attach(said: Mapping[str, Any]) -> bool:
    """Return whether a client wants to listen to the job that it handed over before."""
    return dict(said) == ATTACH


def _kem_key(text: object) -> bytes:
    key = unbase64(text)
    if len(key) != KEM_BYTES:
        raise MessageError(f"a KEM key has {KEM_BYTES} bytes, got {len(key)}")
    return key


def encode_failure(error: StrongroomError) -> dict[str, Any]:
    """Return what may be said about ``error`` over an attested channel."""
    return {
        "type": "failed",
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint,
        "reasons": list(getattr(error, "reasons", ())),
        "step": getattr(error, "step", ""),
        "exit_code": error.exit_code,
    }


def decode_failure(said: Mapping[str, Any]) -> StrongroomError:
    """Return the error that a ``failed`` message stands for, of the same family and with the same reasons."""
    message, hint = str(said.get("message", "the other side failed")), str(said.get("hint", ""))
    reasons = tuple(str(one) for one in said.get("reasons") or ())
    if reasons:
        error: StrongroomError = RefusedError(message, reasons=reasons, hint=hint)
    elif said.get("exit_code") == EvidenceError.exit_code:
        error = EvidenceError(message, step=str(said.get("step", "")), hint=hint)
    elif said.get("exit_code") == UsageError.exit_code:
        error = UsageError(message, hint=hint)
    else:
        error = StrongroomError(message, hint=hint)
    return error


def expect(value: object, *names: str, type_: str | None = None) -> dict[str, Any]:
    """Return ``value`` if it is an object with exactly ``names`` (and ``type``, when given); raise MessageError if
    not.
    """
    wanted = set(names) | ({"type"} if type_ else set())
    if not isinstance(value, dict) or set(value) != wanted or (type_ and value["type"] != type_):
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise MessageError(f"expected a message with {sorted(wanted)}, got {got}"[:500])
    return value


def unbase64(text: object) -> bytes:
    """Return the bytes that base64 ``text`` stands for; raise MessageError otherwise."""
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise MessageError("expected base64 text") from error
