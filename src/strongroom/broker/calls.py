"""Call an attested broker over TLS 1.3 pinned to its certificate, with deadlines and bounded retries.

Every answer's checkpoint is held against what is remembered before the answer is believed. An error of the broker
becomes the Strongroom error that it stands for.
"""

from __future__ import annotations

import base64
import binascii
import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import httpx
import tenacity

from strongroom.answers import TooLongAnswerError, read_answer
from strongroom.broker.names import CHECKPOINT_HEADER, KNOWN_HEADER, PROOF_HEADER, SERVER_NAME
from strongroom.broker.requests import decode64
from strongroom.errors import EvidenceError, LedgerError, RefusedError, TransportError, UsageError
from strongroom.ledger.checkpoint import LedgerKey, SignedCheckpoint
from strongroom.ledger.memory import CheckpointMemory
from strongroom.ledger.proofs import HASH_BYTES, MAX_PROOF

MAX_ANSWER_BYTES = 32 << 20
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
_ANSWER_SECONDS = 120.0  # for a whole answer, however it drips
_RETRY_SECONDS = 20.0
_ATTEMPTS = 6
_SESSION_KINDS = frozenset({"SessionError", "SessionProofError"})


class BrokerRefusedError(RefusedError):
    """The broker refused; the refusal stands in its ledger at ``index``, unless that is -1."""

    def __init__(self, message: str, *, reasons: Sequence[str], index: int, hint: str = "") -> None:
        super().__init__(message, reasons=reasons, hint=hint)
        self.index = index


class SealedBrokerError(TransportError):
    """The broker is sealed: its custodians have to unseal it before it serves anybody."""


class SessionLostError(EvidenceError):
    """The broker no longer knows the session; attest again."""


class _UnreachedError(TransportError):
    """The request never reached the broker, so it may be sent again whatever it is."""


class _LostAnswerError(TransportError):
    """The connection broke after the request was sent; it may have been carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What came back: status and object, the newest checkpoint, and the proof that it continues what was ``known``."""

    status: int
    value: dict[str, Any]
    note: str
    known: int
    proof: bytes


class Line:
    """A connection pool to one broker whose certificate is pinned."""

    def __init__(self, url: str, certificate_der: bytes) -> None:
        self.url = url
        self.certificate_der = certificate_der
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(certificate_der))
        timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
        self._http = httpx.Client(
            base_url=url, verify=context, timeout=timeout, trust_env=False, follow_redirects=False
        )
        self.memory: CheckpointMemory | None = None
        self.ledger: LedgerKey | None = None
        self._known = 0  # told to the broker so that it can send the proof along; the memory alone decides

    @classmethod
    def open(cls, url: str) -> Self:
        """Look at the certificate the broker shows now and pin it; whether it is the broker's, evidence will tell."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path not in {"", "/"}:
            raise UsageError(f"not a broker's address: {url!r}", hint="write https://host:port")
        return cls(f"https://{parts.netloc}", _look(parts.hostname, parts.port or 443))

    def remember(self, memory: CheckpointMemory, ledger: LedgerKey) -> None:
        """From now on hold every answer's checkpoint against ``memory``."""
        self.memory, self.ledger = memory, ledger

    def call(
        self, path: str, body: Mapping[str, Any] | bytes, *, headers: Mapping[str, str] | None = None, again: bool
    ) -> dict[str, Any]:
        """Return the broker's answer, or raise the error it stands for.

        ``again`` says that carrying the request out twice does no harm, so a lost answer may be asked for again; a
        request that never arrived is always sent again, for at most 20 seconds.
        """
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        retried = (_UnreachedError, _LostAnswerError) if again else (_UnreachedError,)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(retried),
            stop=tenacity.stop_after_attempt(_ATTEMPTS) | tenacity.stop_after_delay(_RETRY_SECONDS),
            wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=3.0),
            reraise=True,
        )
        reply: _Reply = retrying(self._send, path, encoded, headers or {})
        if self.memory is not None and self.ledger is not None:
            self._hold(reply.note, reply)
        if reply.status != httpx.codes.OK:
            _raise(reply.status, reply.value)
        return reply.value

    def check_checkpoint(self, note: str) -> SignedCheckpoint:
        """Return the checkpoint in ``note`` after holding it against what is remembered."""
        return self._hold(note, None)

    def _hold(self, note: str, reply: _Reply | None) -> SignedCheckpoint:
        """Hold ``note`` against the memory, by the proof that came with it if it is the one that is needed."""
        if self.memory is None or self.ledger is None:
            raise LedgerError("the broker's ledger key is not attested yet")

        def prove(first: int, second: int) -> list[bytes]:
            if reply is not None and reply.proof and first == reply.known:
                return [reply.proof[at : at + HASH_BYTES] for at in range(0, len(reply.proof), HASH_BYTES)]
            return self._prove(first, second)

        signed = self.memory.check(note, ledger=self.ledger, prove=prove)
        self._known = max(self._known, signed.checkpoint.size)
        return signed

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _prove(self, first: int, second: int) -> list[bytes]:
        reply = self._send("/v1/consistency", json.dumps({"first": first, "second": second}).encode(), {})
        if reply.status != httpx.codes.OK:
            raise LedgerError(f"the broker has no proof that its ledger of {second} entries continues that of {first}")
        return parse_proof(reply.value)

    def _send(self, path: str, body: bytes, headers: Mapping[str, str]) -> _Reply:
        known = self._known
        try:
            answer = read_answer(
                self._http,
                "POST",
                path,
                most=MAX_ANSWER_BYTES,
                ends=time.monotonic() + _ANSWER_SECONDS,
                content=body,
                headers={"content-type": "application/json", KNOWN_HEADER: str(known), **headers},
                extensions={"sni_hostname": SERVER_NAME},
            )
        except TooLongAnswerError as error:
            raise TransportError(f"what answers at {self.url}{path} is not a broker") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _UnreachedError(
                f"cannot reach the broker at {self.url}: {error}",
                hint="is it running, and is this still its certificate?",
            ) from error
        except httpx.TransportError as error:
            raise _LostAnswerError(
                f"the connection to the broker at {self.url} broke: {type(error).__name__}", hint="try again"
            ) from error
        try:
            value = json.loads(answer.body)
            note = base64.b64decode(answer.headers.get(CHECKPOINT_HEADER, ""), validate=True).decode()
            proof = base64.b64decode(answer.headers.get(PROOF_HEADER, ""), validate=True)
            if not isinstance(value, dict):
                raise TransportError("an answer that is not an object")  # noqa: TRY301  told below
        except (ValueError, RecursionError, binascii.Error, TransportError) as error:
            raise TransportError(f"what answers at {self.url}{path} is not a broker") from error
        return _Reply(status=answer.status, value=value, note=note, known=known, proof=proof)


def parse_proof(answer: Mapping[str, Any]) -> list[bytes]:
    """Return the hashes of a proof in an answer."""
    proof = answer.get("proof")
    if not isinstance(proof, list) or len(proof) > MAX_PROOF:
        raise LedgerError("the broker sent something that is not a proof")
    return [decode64(str(node), name="a proof's hash") for node in proof]


def _look(host: str, port: int) -> bytes:
    """Return the certificate that is shown at ``host:port``; it is trusted for nothing yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # Evidence decides whose key this is; nothing is sent before it has.
    try:
        with (
            socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=SERVER_NAME) as line,
        ):
            certificate = line.getpeercert(binary_form=True)
    except OSError as error:
        raise TransportError(
            f"cannot reach a broker at {host}:{port}: {error.strerror or error}",
            hint="is it running, and is that its address?",
        ) from error
    if not certificate:
        raise TransportError(f"what answers at {host}:{port} shows no certificate")
    return certificate


def _raise(status: int, answer: Mapping[str, Any]) -> NoReturn:
    """Raise the Strongroom error that a broker's error stands for."""
    kind = str(answer.get("kind", "unknown"))[:80]
    hint = str(answer.get("hint", ""))
    request = str(answer.get("request", ""))[:40]
    message = str(answer.get("message", "")) or f"the broker refused ({kind}, request {request})"
    if kind == "RefusedError":
        reasons = answer.get("reasons")
        index = answer.get("index", -1)
        raise BrokerRefusedError(
            message,
            reasons=[str(reason) for reason in reasons] if isinstance(reasons, list) else (),
            index=index if isinstance(index, int) else -1,
            hint=hint,
        )
    if kind in _SESSION_KINDS:
        raise SessionLostError(message, step="session")
    if status == httpx.codes.UNAUTHORIZED:
        raise BrokerRefusedError(
            f"the broker does not know this caller ({kind}, request {request})",
            reasons=(),
            index=-1,
            hint="enrol first, or use the ticket and admission that were issued for this job",
        )
    if kind == SealedBrokerError.__name__:
        raise SealedBrokerError(message, hint=hint)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise TransportError(message, hint="the broker's own log names the request")
    raise UsageError(message, hint=hint)
