"""The broker's decisions are pure: what is missing, what is approved, and how much of it the ledger can hold."""

from datetime import UTC, datetime

import pytest

from strongroom.broker.records import Output
from strongroom.broker.release import fit, missing_approvals, shorten
from strongroom.broker.sessions import MAX_NONCES, Nonces, StaleNonceError
from strongroom.ledger.entry import Entry, EntryKind
from strongroom.statements import SigningKey

NOW = datetime(2027, 1, 1, tzinfo=UTC)


class Fused:
    def __init__(self, *approvals):
        self.approvals = approvals


class Rule:
    def __init__(self, needed, *of):
        self.needed, self.of = needed, of


A, B, C = (SigningKey.generate(name=name).party for name in "abc")
OUTPUT = Output(job="j", name="o", digest="sha256:1", location="", details={}, reasons=(), sealed={}, created=NOW)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, 2),
        ({A: "sha256:1"}, 1),
        ({A: "sha256:2", C: "sha256:1"}, 1),
        ({A: "sha256:1", B: "sha256:1"}, 1),
        ({A: "sha256:1", C: "sha256:1"}, 0),
    ],
)
def test_every_rule_needs_its_own_approvals_of_this_very_digest(given, missing):
    rules = Fused(Rule(1, A, B), Rule(1, C))
    approved = {party.fingerprint: digest for party, digest in given.items()}
    assert len(missing_approvals(OUTPUT, rules, approved=approved)) == missing


def test_one_party_counts_once_for_a_rule():
    assert missing_approvals(OUTPUT, Fused(Rule(2, A, B)), approved={A.fingerprint: "sha256:1"})


@pytest.mark.parametrize("letter", ["a", "ü", "\U0001f512", "\x01"])
def test_shortened_reasons_always_fit_an_entry(letter):
    reasons = shorten([f"{n}: " + letter * 5000 for n in range(900)])
    assert reasons[-1].endswith(" more reasons")
    assert len(reasons) > 4
    Entry(kind=EntryKind.REFUSAL, time=NOW, facts={}, reasons=reasons).encode()
    assert shorten(["a", "b"]) == ("a", "b")


def test_decision_with_too_many_facts_is_still_written_down_with_their_digest():
    facts = {"job": "j", "datasets": [{"columns": ["c" * 250] * 256}] * 3}
    entry = fit(Entry(kind=EntryKind.GRANT, time=NOW, facts=facts, reasons=("r" * 1000,) * 30))
    assert entry.facts["job"] == "j"
    assert entry.facts["facts_digest"].startswith("sha256:")
    assert "datasets" not in entry.facts
    entry.encode()
    small = Entry(kind=EntryKind.GRANT, time=NOW, facts={"job": "j"})
    assert fit(small) is small


def test_nonce_answers_once_and_only_within_its_minute():
    from datetime import timedelta

    nonces = Nonces()
    nonce = nonces.issue(now=NOW)
    nonces.use(nonce, now=NOW + timedelta(seconds=60))
    for late in (nonce, nonces.issue(now=NOW)):
        with pytest.raises(StaleNonceError):
            nonces.use(late, now=NOW + timedelta(seconds=61))
    with pytest.raises(StaleNonceError):
        nonces.use(nonces.issue(now=NOW), now=NOW - timedelta(seconds=1))


def test_table_of_nonces_is_bounded_and_the_oldest_give_way():
    nonces = Nonces()
    first = nonces.issue(now=NOW)
    for _ in range(MAX_NONCES):
        last = nonces.issue(now=NOW)
    with pytest.raises(StaleNonceError):
        nonces.use(first, now=NOW)
    nonces.use(last, now=NOW)
