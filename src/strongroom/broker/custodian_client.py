"""Attest a sealed broker and contribute to opening its store: what a custodian's machine does (spec/4-release.md §5.5).

Nothing but a nonce is sent before the broker has proved what it is. The contribution leaves sealed to a key that this
start of this broker made, together with what this custodian remembers of the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from cryptography import x509

from strongroom.attestation.appraisal import AttestationResult, Verifier
from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.roles import Role
from strongroom.broker.calls import Line
from strongroom.broker.client import expect_measurement
from strongroom.broker.custodians import contribute, sealed_ledger, unseal_info
from strongroom.broker.names import NONCE_BYTES, SEALED_LABEL
from strongroom.broker.orders import Order, sign_order
from strongroom.broker.public_keys import encode_spki
from strongroom.broker.requests import decode64, encode64
from strongroom.digests import bytes_digest
from strongroom.envelope.hpke import seal
from strongroom.envelope.keys import reveal
from strongroom.errors import EvidenceError, UsageError
from strongroom.ledger.memory import CheckpointMemory, RolledBackError
from strongroom.statements import PartyId, SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsealing:
    """How far the unsealing of a broker is; ``founding`` says that there is nothing in its store yet."""

    custodians: tuple[PartyId, ...]
    given: tuple[PartyId, ...]
    founding: bool

    @property
    def missing(self) -> tuple[PartyId, ...]:
        """Return who has yet to contribute."""
        return tuple(party for party in self.custodians if party not in self.given)


class NotSealedError(UsageError):
    """The broker is not sealed: it serves, and nobody has to contribute."""


class SealedBroker:
    """A sealed broker that was attested; ``state`` is what it said of itself."""

    def __init__(self, line: Line, *, result: AttestationResult, instance: bytes, answer: Mapping[str, Any]) -> None:
        self._line = line
        self._instance = instance
        self.result = result
        try:
            self._kem = decode64(str(answer["kem"]), name="the broker's KEM key")
            self._nonce = decode64(str(answer["nonce"]), name="a nonce", size=NONCE_BYTES)
            self._store, self._seal = bytes.fromhex(answer["store"]), bytes.fromhex(answer["seal"])
            self._ledger = str(answer["ledger"])
            self.state = _read_state(answer, founding=not self._ledger)
        except (KeyError, TypeError, ValueError) as error:
            raise EvidenceError("the broker presented something that is not a sealed store", step="format") from error

    @classmethod
    def attest(
        cls, url: str, *, verifier: Verifier, expected_measurements: Collection[str], now: datetime | None = None
    ) -> Self:
        """Return the sealed broker at ``url`` after it proved what it is and that it holds the keys of this start.

        Raise EvidenceError if it is not genuine or not one of ``expected_measurements``, NotSealedError if it serves.
        """
        line = Line.open(url)
        try:
            nonce = os.urandom(NONCE_BYTES)
            answer = _ask(line, nonce)
            certificate = x509.load_der_x509_certificate(line.certificate_der)
            try:
                spki = encode_spki(certificate.public_key())
                kem = decode64(str(answer["kem"]), name="the broker's KEM key")
                evidence = Evidence.from_json(answer["evidence"])
            except (KeyError, TypeError, ValueError) as error:
                raise EvidenceError("the broker presented something that is not evidence", step="format") from error
            instance = key_bundle_digest(SEALED_LABEL, spki, kem)
            expected = report_data(
                role=Role.BROKER, nonce=nonce, exporter=b"", own_key=instance, peer_key=b"", job_digest=b""
            )
            result = verifier.appraise(evidence, report_data=expected, now=now or datetime.now(UTC))
            expect_measurement(result, expected_measurements)
            return cls(line, result=result, instance=instance, answer=answer)
        except BaseException:
            line.close()
            raise

    def contribute(self, key: SigningKey, *, memory: CheckpointMemory) -> Unsealing:
        """Give the contribution of the party of ``key`` and return how far the unsealing is then.

        Raise UsageError if the party is no custodian, RolledBackError if ``memory`` knows another ledger here.
        """
        if key.party not in self.state.custodians:
            raise UsageError(
                f"{key.party} is not a custodian of the broker at {self._line.url}",
                hint=f"its custodians are {', '.join(map(str, self.state.custodians))}; the operator names them",
            )
        remembered = memory.recall()
        if remembered is not None and remembered[0].encode() != self._ledger:
            raise RolledBackError(
                f"the broker at {self._line.url} is to "
                + ("found a new store" if self.state.founding else "open the store of another ledger")
                + f", remembered is {remembered[0].origin!r}",
                hint="its store was emptied or exchanged; if that was agreed, move "
                f"{memory.path} away and keep it as evidence; then a new memory begins",
            )
        info = unseal_info(instance=self._instance, store=self._store, seal=self._seal, party=key.party)
        sealed = seal(self._kem, reveal(contribute(key, store=self._store)), info=info)
        order = sign_order(
            Order.UNSEAL,
            {
                "seal": self._seal.hex(),
                "contribution": bytes_digest(sealed),
                "checkpoint": memory.recall_note(),
            },
            ledger=sealed_ledger(self._store),
            nonce=self._nonce,
            key=key,
        )
        answer = self._line.call(
            "/v1/contributions", {"order": order.encode(), "sealed": encode64(sealed)}, again=False
        )
        return _read_state(answer, founding=self.state.founding)

    def close(self) -> None:
        """Close every connection."""
        self._line.close()


def _ask(line: Line, nonce: bytes) -> dict[str, Any]:
    try:
        return line.call("/v1/sealed", {"nonce": encode64(nonce)}, again=True)
    except UsageError as error:
        raise NotSealedError(
            f"the broker at {line.url} is not sealed", hint="nothing is to be done; `strongroom attest broker` tries it"
        ) from error


def _read_state(answer: Mapping[str, Any], *, founding: bool) -> Unsealing:
    return Unsealing(
        custodians=tuple(PartyId.parse(text) for text in answer["custodians"]),
        given=tuple(PartyId.parse(text) for text in answer["given"]),
        founding=founding,
    )
