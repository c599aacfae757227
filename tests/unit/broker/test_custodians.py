"""Which way a store opens, decided from its seal, what the operator named and what the TEE can."""

import pytest

from strongroom.broker.custodians import (
    MOST_CUSTODIANS,
    OpenByCustodians,
    OpenByTee,
    SealRecordError,
    TeeSeal,
    contribute,
    deal,
    in_order,
    parse_seal,
    plan_opening,
)
from strongroom.envelope.keys import DataKey
from strongroom.errors import UsageError
from strongroom.statements import SigningKey

KEYS = [SigningKey.generate(name=name) for name in ("a", "b", "c")]
A, B, C = (key.party for key in KEYS)
STORE = bytes(32)
DEALT = deal(
    DataKey.generate(), {key.party: contribute(key, store=STORE) for key in KEYS[:2]}, store=STORE, ledger="ledger"
)
CUSTODIANS = DEALT.encode()
TOO_MANY = [SigningKey.generate(name="x").party for _ in range(MOST_CUSTODIANS + 1)]
SNP = TeeSeal(terms="04000000000018db").encode()


def plan(text="", *, empty=False, named=(), terms=""):
    return plan_opening(text, empty=empty, named=named, terms=terms)


def test_a_tee_that_seals_opens_what_it_sealed_and_seals_what_is_new():
    assert plan() == plan(empty=True) == OpenByTee(kept="", now="")
    assert plan(SNP, terms="05000000000018db") == OpenByTee(kept="04000000000018db", now="05000000000018db")
    assert plan(empty=True, terms="05") == OpenByTee(kept="05", now="05")


@pytest.mark.parametrize("terms", [None, ""], ids=["a TEE without sealing keys", "one with"])
def test_custodians_open_what_they_sealed_wherever_it_is(terms):
    opened = plan(CUSTODIANS, terms=terms)
    assert opened == OpenByCustodians(dealt=DEALT, custodians=in_order([A, B]))
    assert not opened.renews
    assert plan(CUSTODIANS, named=[B, A, B], terms=terms) == opened
    more = plan(CUSTODIANS, named=[C, A, B], terms=terms)
    assert (more.custodians, more.renews) == (in_order([A, B, C]), True)
    founded = plan(empty=True, named=[A], terms=terms)
    assert (founded.dealt, founded.custodians, founded.renews) == (None, (A,), True)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"text": CUSTODIANS, "named": [A, C]}, "who was not named"),
        ({"named": [A]}, "sealed by the TEE"),
        ({"text": SNP, "named": [A], "terms": None}, "sealed by the TEE"),
        ({"empty": True, "terms": None}, "has no sealing key"),
        ({"empty": True, "named": TOO_MANY}, "at most"),
    ],
)
def test_what_the_operator_cannot_have_is_said(case, said):
    with pytest.raises(UsageError, match=said):
        plan(**case)


def test_a_store_that_another_kind_of_tee_sealed_does_not_open():
    with pytest.raises(SealRecordError, match="this one has none"):
        plan(SNP, terms=None)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"text"',
        "null",
        '{"format": "strongroom/store-seal/v2", "by": "tee", "terms": ""}',
        CUSTODIANS.replace('"by":"custodians"', '"by":"tee"'),
        CUSTODIANS.replace(str(A), str(B)),
        CUSTODIANS.replace(DEALT.checks[0].hex(), "zz"),
        CUSTODIANS.replace(f',"{DEALT.checks[1].hex()}"', ""),
        CUSTODIANS + " " * (64 << 10),
        "[" * 100_000,
    ],
)
def test_a_damaged_seal_is_said_to_be_one(text):
    with pytest.raises(SealRecordError, match="damaged"):
        parse_seal(text)
