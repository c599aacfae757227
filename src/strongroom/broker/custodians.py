"""Make and open the seal of a store that custodians open together, and decide which way a store opens (spec 4 §5.5).

Pure: takes contributions and randomness, never a clock, a network or a store. A seal is read from where the host can
write; nothing in it is believed before it opens under what every custodian contributed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from strongroom.catalog.store import StoreError
from strongroom.digests import frame, same
from strongroom.envelope.keys import DataKey, reveal
from strongroom.errors import UsageError
from strongroom.statements import PartyId, SigningKey, StatementError, canonical_json

FORMAT: Final = "strongroom/store-seal/v1"
ID_BYTES: Final = 32
CONTRIBUTION_BYTES: Final = 32
MOST_CUSTODIANS: Final = 64
_CHECK_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_MAX_SEAL: Final = 64 << 10


class SealRecordError(StoreError):
    """The row that says how a store opens is damaged, or does not fit what is asked."""


class WrongContributionError(UsageError):
    """A contribution is not the one that the store was sealed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeSeal:
    """The store's key is the TEE's, under ``terms``."""

    terms: str

    def encode(self) -> str:
        """Return the row."""
        return json.dumps({"format": FORMAT, "by": "tee", "terms": self.terms})


@dataclass(frozen=True, slots=True, kw_only=True)
class CustodianSeal:
    """The store's key, wrapped under what all ``custodians`` contribute; ``ledger`` is the ledger's public key."""

    store: bytes
    seal: bytes
    ledger: str
    custodians: tuple[PartyId, ...]  # by fingerprint
    checks: tuple[bytes, ...]
    wrapped: bytes

    def encode(self) -> str:
        """Return the row; nothing in it is secret."""
        wrapped = base64.b64encode(self.wrapped).decode()
        return canonical_json({**self.head(), "wrapped": wrapped}).decode()

    def head(self) -> dict[str, Any]:
        """Return everything but the wrapped key, which is bound to it."""
        return {
            "format": FORMAT,
            "by": "custodians",
            "store": self.store.hex(),
            "seal": self.seal.hex(),
            "ledger": self.ledger,
            "custodians": [str(party) for party in self.custodians],
            "checks": [check.hex() for check in self.checks],
        }

    def check(self, party: PartyId, contribution: DataKey) -> None:
        """Raise WrongContributionError unless ``contribution`` is what ``party`` sealed this store with."""
        for custodian, check in zip(self.custodians, self.checks, strict=True):
            if custodian == party and same(_check_value(contribution, seal=self.seal), check):
                return
        raise WrongContributionError(
            f"what {party} contributes is not what this store was sealed with",
            hint="the identity is another one than at the founding, or somebody exchanged the store's seal",
        )

    def open(self, contributions: Mapping[PartyId, DataKey]) -> DataKey:
        """Return the store's key; raise SealRecordError unless every custodian contributed and the seal is intact."""
        missing = [str(party) for party in self.custodians if party not in contributions]
        if missing:
            raise SealRecordError(f"the store does not open without {', '.join(missing)}")
        key = _wrapping_key([contributions[party] for party in self.custodians], store=self.store, seal=self.seal)
        try:
            opened = AESGCM(key).decrypt(
                self.wrapped[:_NONCE_BYTES], self.wrapped[_NONCE_BYTES:], canonical_json(self.head())
            )
            return DataKey(opened)
        except (InvalidTag, ValueError) as error:
            raise SealRecordError(
                "the store's seal does not open under what its custodians contributed",
                hint="somebody changed it; bring back the newest copy of the store",
            ) from error


def parse_seal(text: str) -> TeeSeal | CustodianSeal:
    """Return the seal in a row; none at all means a TEE's without terms. Raise SealRecordError for anything else."""
    if not text:
        return TeeSeal(terms="")
    try:
        value = json.loads(text) if len(text) <= _MAX_SEAL else None
        if isinstance(value, dict) and value.get("format") == FORMAT:
            if set(value) == {"format", "by", "terms"} and value["by"] == "tee":
                return TeeSeal(terms=str(value["terms"]))
            if set(value) == {"format", "by", "store", "seal", "ledger", "custodians", "checks", "wrapped"}:
                return _parse_custodian_seal(value)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error, StatementError) as error:
        raise _damaged() from error
    raise _damaged()


def contribute(key: SigningKey, *, store: bytes) -> DataKey:
    """Return what the party of ``key`` contributes to the store called ``store``; the same again each time."""
    derived = HKDF(
        algorithm=SHA256(), length=CONTRIBUTION_BYTES, salt=store, info=frame(b"strongroom/contribution/v1")
    ).derive(key.reveal_seed())
    return DataKey(derived)


def deal(
    key: DataKey,
    contributions: Mapping[PartyId, DataKey],
    *,
    store: bytes,
    ledger: str,
    random: Callable[[int], bytes] = os.urandom,
) -> CustodianSeal:
    """Return the seal under which ``key`` opens with all of ``contributions`` and with nothing less."""
    parties = in_order(contributions)
    seal = random(ID_BYTES)
    drafted = CustodianSeal(
        store=store,
        seal=seal,
        ledger=ledger,
        custodians=parties,
        checks=tuple(_check_value(contributions[party], seal=seal) for party in parties),
        wrapped=b"",
    )
    nonce = random(_NONCE_BYTES)
    wrapping = _wrapping_key([contributions[party] for party in parties], store=store, seal=seal)
    wrapped = nonce + AESGCM(wrapping).encrypt(nonce, reveal(key), canonical_json(drafted.head()))
    return CustodianSeal(
        store=store, seal=seal, ledger=ledger, custodians=parties, checks=drafted.checks, wrapped=wrapped
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenByTee:
    """The TEE's key for ``kept`` opens the store, which is to be sealed anew under ``now`` where that differs."""

    kept: str
    now: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenByCustodians:
    """What ``custodians`` contribute opens the store; ``dealt`` is its seal, or None if it is yet to be founded."""

    dealt: CustodianSeal | None
    custodians: tuple[PartyId, ...]

    @property
    def renews(self) -> bool:
        """Say whether the store's key is to be made, or made anew, since others are custodians than before."""
        return self.dealt is None or self.dealt.custodians != self.custodians


def plan_opening(
    text: str, *, empty: bool, named: Sequence[PartyId], terms: str | None
) -> OpenByTee | OpenByCustodians:
    """Return which way a store with the seal ``text`` opens; raise UsageError or SealRecordError if none.

    ``named`` are the custodians that the operator named; ``terms`` those of the TEE's sealing keys now, or None if it
    has none.
    """
    chosen = in_order(named)
    if len(chosen) > MOST_CUSTODIANS:
        raise UsageError(f"a store has at most {MOST_CUSTODIANS} custodians, got {len(chosen)}")
    seal = TeeSeal(terms=terms or "") if empty else parse_seal(text)
    if isinstance(seal, CustodianSeal):
        dropped = [str(party) for party in seal.custodians if party not in chosen]
        if chosen and dropped:
            raise UsageError(
                f"the custodians of this store include {', '.join(dropped)}, who was not named",
                hint="name all of them, or none; a custodian is never dropped: its data could then open without it",
            )
        return OpenByCustodians(dealt=seal, custodians=chosen or seal.custodians)
    if empty and chosen:
        return OpenByCustodians(dealt=None, custodians=chosen)
    if chosen:
        raise UsageError(
            "this store is sealed by the TEE and has no custodians",
            hint="leave --custodian out, or name an empty store",
        )
    if terms is None and empty:
        raise UsageError(
            "this TEE has no sealing key, so custodians have to open the store",
            hint="name every owner that will register data: --custodian PARTY, as `strongroom identity` prints it",
        )
    if terms is None:
        raise SealRecordError(
            "this store was sealed by a TEE that has sealing keys, and this one has none",
            hint="start its broker where it was, or name an empty store and custodians",
        )
    return OpenByTee(kept=seal.terms, now=terms)


def in_order(parties: Sequence[PartyId] | Mapping[PartyId, Any]) -> tuple[PartyId, ...]:
    """Return the parties once each, by fingerprint."""
    return tuple(sorted(dict.fromkeys(parties), key=lambda party: party.fingerprint))


def unseal_info(*, instance: bytes, store: bytes, seal: bytes, party: PartyId) -> bytes:
    """Return the HPKE info under which a custodian seals its contribution to one sealed broker."""
    return frame(b"strongroom/unseal/v1", instance, store, seal, party.fingerprint.encode())


def sealed_ledger(store: bytes) -> str:
    """Return what stands for the ledger in orders to a sealed broker, whose ledger is not open yet."""
    return f"sealed/{store.hex()}"


def _wrapping_key(contributions: Sequence[DataKey], *, store: bytes, seal: bytes) -> bytes:
    material = frame(*(reveal(one) for one in contributions))
    return HKDF(
        algorithm=SHA256(), length=CONTRIBUTION_BYTES, salt=seal, info=frame(b"strongroom/store-key/v1", store)
    ).derive(material)


def _check_value(contribution: DataKey, *, seal: bytes) -> bytes:
    return HKDF(
        algorithm=SHA256(), length=_CHECK_BYTES, salt=seal, info=frame(b"strongroom/contribution-check/v1")
    ).derive(reveal(contribution))


def _parse_custodian_seal(value: Mapping[str, Any]) -> CustodianSeal:
    parties = tuple(PartyId.parse(text) for text in value["custodians"])
    found = CustodianSeal(
        store=bytes.fromhex(value["store"]),
        seal=bytes.fromhex(value["seal"]),
        ledger=str(value["ledger"]),
        custodians=parties,
        checks=tuple(bytes.fromhex(text) for text in value["checks"]),
        wrapped=base64.b64decode(value["wrapped"], validate=True),
    )
    sound = (
        value["by"] == "custodians"
        and len(found.store) == len(found.seal) == ID_BYTES
        and 0 < len(parties) <= MOST_CUSTODIANS
        and parties == in_order(parties)
        and len(found.checks) == len(parties)
    )
    if not sound:
        raise _damaged()
    return found


def _damaged() -> SealRecordError:
    return SealRecordError(
        "the row that says how the store opens is damaged", hint="bring back the newest copy of the store whole"
    )
