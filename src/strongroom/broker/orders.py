"""What a party signs when it tells the broker to do something: one form per kind of order (spec/4-release.md §5.3).

Every order names the ledger it is meant for and a nonce of that broker, so it works once and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from strongroom.statements import SigningKey, Statement, StatementError, VerifyKey, sign

VERSION = 1
MAX_REASON = 500


class Order(StrEnum):
    """The kinds of order; each is a statement kind of its own."""

    REGISTER = "registration-order"
    ADOPT = "adoption-order"
    POLICY = "policy-order"
    REVOKE = "revocation-order"
    APPROVE = "approval-order"
    PENDING = "pending-order"
    FETCH = "result-order"
    UNSEAL = "unseal-order"


_FIELDS: Mapping[Order, tuple[str, ...]] = {
    Order.REGISTER: ("manifest", "policy", "sealed_key"),
    Order.ADOPT: ("output", "manifest", "policy"),
    Order.POLICY: ("policy",),
    Order.REVOKE: ("dataset", "version", "reason"),
    Order.APPROVE: ("output", "digest"),
    Order.PENDING: (),
    Order.FETCH: ("job", "output"),
    Order.UNSEAL: ("seal", "contribution", "checkpoint"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedOrder:
    """An order whose signature holds; ``nonce`` is still to be used up, and the signer to be known."""

    kind: Order
    signer: VerifyKey
    nonce: bytes
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a text field."""
        value = self.fields[name]
        if not isinstance(value, str):
            raise StatementError(f"{name} in a {self.kind} is a text")
        return value

    def number(self, name: str) -> int:
        """Return a whole number that is not negative."""
        value = self.fields[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise StatementError(f"{name} in a {self.kind} is a whole number")
        return value


def sign_order(kind: Order, fields: Mapping[str, Any], *, ledger: str, nonce: bytes, key: SigningKey) -> Statement:
    """Return the order signed by ``key`` for the broker whose ledger is called ``ledger``."""
    payload = {"ledger": ledger, "nonce": base64.b64encode(nonce).decode(), **fields}
    return sign(payload, kind=kind.value, version=VERSION, key=key)


def verify_order(statement: Statement, *, kind: Order, ledger: str) -> VerifiedOrder:
    """Return the order after verifying signature, kind, form and that it is meant for ``ledger``."""
    payload = statement.open(kind=kind.value, version=VERSION, signer=None)  # the caller looks the signer up
    if set(payload) != {"ledger", "nonce", *_FIELDS[kind]}:
        raise StatementError(f"a {kind} has ledger, nonce and {', '.join(_FIELDS[kind]) or 'nothing else'}")
    if payload["ledger"] != ledger:
        raise StatementError("the order is meant for another broker", hint="attest this broker and sign again")
    try:
        nonce = base64.b64decode(payload["nonce"], validate=True)
    except (ValueError, TypeError, binascii.Error) as error:
        raise StatementError("an order's nonce is base64") from error
    fields = {name: payload[name] for name in _FIELDS[kind]}
    return VerifiedOrder(kind=kind, signer=VerifyKey(statement.signer), nonce=nonce, fields=fields)
