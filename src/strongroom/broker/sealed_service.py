"""Serve the two doors of a sealed broker, to its custodians, and tell everybody else that it is sealed (spec 4 §5.5).

Its keys are made for this one start and bound into evidence that no client takes for that of a serving broker.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.roles import Role
from strongroom.attestation.tee import Tee
from strongroom.broker.calls import SealedBrokerError
from strongroom.broker.custodians import sealed_ledger, unseal_info
from strongroom.broker.keys import BrokerKeys
from strongroom.broker.names import NONCE_BYTES, SEALED_LABEL
from strongroom.broker.orders import Order, verify_order
from strongroom.broker.requests import MalformedRequestError, Message, encode64
from strongroom.broker.service import SMALL, Answer, Scope, error_answer, explain, read_body
from strongroom.broker.sessions import Nonces
from strongroom.broker.vigil import Vigil
from strongroom.digests import bytes_digest
from strongroom.envelope.keys import DataKey
from strongroom.errors import StrongroomError
from strongroom.ledger.checkpoint import SignedCheckpoint
from strongroom.statements import PartyId

log = logging.getLogger("strongroom.broker")

_UNAVAILABLE = 503


class SealedService:
    """The application of a sealed broker; ``keys`` are for this start alone."""

    def __init__(self, vigil: Vigil, *, keys: BrokerKeys, tee: Tee, nonces: Nonces) -> None:
        self._vigil = vigil
        self._keys = keys
        self._tee = tee
        self._nonces = nonces
        self._instance = key_bundle_digest(SEALED_LABEL, keys.public.tls_spki, keys.public.kem)
        self._routes = {"/v1/sealed": self._show, "/v1/contributions": self._take}

    async def __rsgi__(self, scope: Scope, protocol: Any) -> None:  # noqa: ANN401  granian's protocol object
        """Answer one request; whatever happens, the answer is JSON and says no more than it must."""
        if scope.proto != "http":
            protocol.close(None)
            return
        answer = await self._answer(scope, protocol)
        headers = [("content-type", "application/json"), ("cache-control", "no-store")]
        protocol.response_bytes(answer.status, headers, answer.body)

    async def _answer(self, scope: Scope, protocol: Any) -> Answer:  # noqa: ANN401  granian's protocol object
        try:
            route = self._routes.get(scope.path)
            if route is None or scope.method != "POST":
                hint = "each custodian runs `strongroom unseal`; see the guide to unsealing a broker"
                return error_answer(
                    _UNAVAILABLE, SealedBrokerError.__name__, public=True, message=self._vigil.describe(), hint=hint
                )
            body = await read_body(scope, protocol, SMALL)
            return Answer(status=200, body=json.dumps(route(body)).encode())
        except StrongroomError as error:
            return explain(error, scope.path)
        except Exception:
            log.exception("request_failed", extra={"path": scope.path})
            return error_answer(500, "InternalError", public=False, message="")

    def _show(self, body: bytes) -> dict[str, Any]:
        """Return evidence that this very start holds these very keys, and what a custodian has to know."""
        nonce = Message.parse(body, "nonce").raw("nonce", size=NONCE_BYTES)
        bound = report_data(
            role=Role.BROKER, nonce=nonce, exporter=b"", own_key=self._instance, peer_key=b"", job_digest=b""
        )
        vigil = self._vigil
        return {
            "evidence": self._tee.evidence(bound).to_json(),
            "kem": encode64(self._keys.public.kem),
            "nonce": encode64(self._nonces.issue(now=datetime.now(UTC))),
            "store": vigil.store.hex(),
            "seal": vigil.seal.hex(),
            "ledger": vigil.plan.dealt.ledger if vigil.plan.dealt else "",
            "custodians": [str(party) for party in vigil.custodians],
            "given": [str(party) for party in vigil.given],
        }

    def _take(self, body: bytes) -> dict[str, Any]:
        """Take the contribution of the custodian that signed for it."""
        message = Message.parse(body, "order", "sealed")
        statement, sealed = message.statement("order"), message.raw("sealed", limit=SMALL)
        vigil = self._vigil
        order = verify_order(statement, kind=Order.UNSEAL, ledger=sealed_ledger(vigil.store))
        party = PartyId(name="custodian", fingerprint=order.signer.fingerprint)
        party = next((custodian for custodian in vigil.custodians if custodian == party), party)
        self._nonces.use(order.nonce, now=datetime.now(UTC))
        if order.text("seal") != vigil.seal.hex() or order.text("contribution") != bytes_digest(sealed):
            raise MalformedRequestError("the order was signed for another seal or contribution")
        checkpoint = order.text("checkpoint")
        if checkpoint:
            SignedCheckpoint.parse(checkpoint)  # whether it is this ledger's is seen when the store is open
        info = unseal_info(instance=self._instance, store=vigil.store, seal=vigil.seal, party=party)
        vigil.take(party, DataKey(self._keys.kem.open(sealed, info=info)), checkpoint=checkpoint)
        log.info("contribution_taken", extra={"custodian": str(party)})
        given = vigil.given
        return {
            "custodians": [str(one) for one in vigil.custodians],
            "given": [str(one) for one in given],
            "complete": len(given) == len(vigil.custodians),
        }
