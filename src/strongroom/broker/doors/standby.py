"""The door for a standby: the store's key for a broker that proves to be the same as this one (spec/4-release.md §5.5).

Each handover is in the ledger before the answer; a refusal too.
"""

from __future__ import annotations

from typing import Any

from strongroom.attestation.evidence import Evidence
from strongroom.broker.desk import ConflictError, Desk
from strongroom.broker.handover import handover_info, rule_on_standby, standby_report_data
from strongroom.broker.names import NONCE_BYTES
from strongroom.broker.requests import Message, encode64
from strongroom.envelope.hpke import seal
from strongroom.envelope.keys import reveal
from strongroom.errors import EvidenceError
from strongroom.ledger.entry import EntryKind


class StandbyDoor:
    """Serves brokers that stand by."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def hand_over(self, body: bytes) -> dict[str, Any]:
        """Return the store's key sealed to a standby of the same measurement; refuse every other with all reasons."""
        message = Message.parse(body, "nonce", "evidence", "kem")
        nonce, kem = message.raw("nonce", size=NONCE_BYTES), message.raw("kem")
        evidence = Evidence.from_json(message.mapping("evidence"))
        desk = self._desk
        if not desk.keeping.custodians:
            raise ConflictError(
                "the TEE seals this broker's store",
                hint="a standby beside it opens the store by itself, and no other can",
            )
        desk.nonces.use(nonce, now=desk.clock())
        bound = standby_report_data(nonce=nonce, kem=kem, broker_spki=desk.keys.public.tls_spki)
        try:
            await desk.collateral.prepare(evidence.quote)
            result = desk.verifier.appraise(evidence, report_data=bound, now=desk.clock())
        except EvidenceError as error:
            await desk.keep_memory()
            await desk.refuse("handover to a standby", facts={"step": error.step}, reasons=[error.message])
        await desk.keep_memory()
        facts = {
            "measurement": result.measurement,
            "tcb_status": result.tcb_status,
            "collateral": result.collateral_digest,
            "simulated": result.simulated,
        }
        if reasons := rule_on_standby(result, own_measurement=desk.tee.own_measurement):
            await desk.refuse("handover to a standby", facts=facts, reasons=reasons)
        await desk.book.stand_alone()  # A broker that was overtaken has no key to give.
        written = await desk.write(EntryKind.HANDOVER, facts, administrative=True)
        info = handover_info(nonce=nonce, origin=desk.keys.origin)
        return {"sealed": encode64(seal(kem, reveal(desk.keeping.key), info=info)), "index": written.index}
