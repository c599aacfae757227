"""Whatever bytes arrive, parsers and verifier answer with a typed refusal and nothing else."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.evidence import Evidence, parse_quote
from strongroom.attestation.evidence.der import DerValue
from strongroom.attestation.evidence.event_log import parse_event_log
from strongroom.attestation.evidence.pck import parse_pck_chain
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.errors import EvidenceError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"p" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
QUOTES = (
    quote_sgx(VENDOR, SgxFacts(mr_enclave=b"e" * 32, mr_signer=b"s" * 32), report_data=bytes(64)),
    quote_tdx(VENDOR, TdxFacts(mr_td=b"d" * 48, rtmrs=(b"r" * 48,) * 4), report_data=bytes(64)),
    quote_tdx(VENDOR, TdxFacts(mr_td=b"d" * 48, rtmrs=(b"r" * 48,) * 4), report_data=bytes(64), version=5),
)
COLLATERAL = {"sgx": VENDOR.collateral("sgx", now=NOW), "tdx": VENDOR.collateral("tdx", now=NOW)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def accepts_or_refuses(parse, *arguments: object) -> None:
    refusal = None
    try:
        parse(*arguments)
    except EvidenceError as error:
        refusal = error
    assert refusal is None or (refusal.step and refusal.message)


@given(st.binary(max_size=6000))
def test_arbitrary_bytes_are_no_quote(data: bytes) -> None:
    accepts_or_refuses(parse_quote, data)


@given(st.sampled_from(QUOTES), st.integers(0), st.binary(min_size=1, max_size=8), st.integers(0, 8))
def test_a_quote_with_bytes_replaced_inserted_or_removed_is_read_or_refused(
    quote: bytes, place: int, new: bytes, removed: int
) -> None:
    place %= len(quote)
    accepts_or_refuses(parse_quote, quote[:place] + new + quote[place + removed :])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(QUOTES), st.integers(0), st.integers(1, 255))
def test_a_mutated_quote_never_verifies_as_something_else(quote: bytes, place: int, flip: int) -> None:
    place %= len(quote)
    mutated = bytearray(quote)
    mutated[place] ^= flip
    genuine = parse_quote(quote)
    facts = verify_quote(bytes(mutated), collateral=COLLATERAL[genuine.tee], now=NOW, anchor=ANCHOR)
    if facts["verdict"] == "verified":  # white space in PEM: no signed byte changed
        assert parse_quote(bytes(mutated)).signed == genuine.signed
    else:
        assert facts["step"]


@given(st.binary(max_size=400))
def test_arbitrary_der_and_chains_are_refused(data: bytes) -> None:
    accepts_or_refuses(lambda der: DerValue.parse(der, where="test").pairs(), data)
    accepts_or_refuses(parse_pck_chain, data)
    accepts_or_refuses(parse_pck_chain, b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n")


@given(st.binary(max_size=300), st.integers(0, 60))
def test_arbitrary_event_logs_are_read_or_refused(data: bytes, size: int) -> None:
    accepts_or_refuses(parse_event_log, data)
    head = bytes(28) + (16 + size).to_bytes(4, "little") + b"Spec ID Event03\0" + bytes(size)
    accepts_or_refuses(parse_event_log, head + data)


@given(JSON)
def test_arbitrary_json_is_no_evidence(value: object) -> None:
    accepts_or_refuses(Evidence.from_json, value)


@settings(deadline=None)
@given(st.text(max_size=60) | st.sampled_from(list(COLLATERAL.values())), st.integers(0), st.text(max_size=3))
def test_mangled_collateral_is_refused(text: str, place: int, new: str) -> None:
    place %= max(len(text), 1)
    mangled = text[:place] + new + text[place + 1 :]
    accepts_or_refuses(parse_collateral, mangled)
    facts = verify_quote(QUOTES[0], collateral=mangled, now=NOW, anchor=ANCHOR)
    assert facts["verdict"] in ("verified", "rejected")
