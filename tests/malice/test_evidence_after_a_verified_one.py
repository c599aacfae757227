"""The attacker waits until a platform's quote was verified, and hopes that the next one is looked at less closely."""

import json
import os
import struct
import tracemalloc
from datetime import UTC, datetime, timedelta

import dcap_qvl
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.certification import CERTIFICATIONS, REMEMBERED, verify_cryptography
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.evidence.quote import parse_quote
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.faults import NO_FAULTS, Faults
from strongroom.attestation.simulated.pki import Vendor, sign_raw
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx, sign_quote

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
KINDS = ("sgx-3", "tdx-4", "tdx-5")
REPORT_DATA = {"sgx-3": 368, "tdx-4": 568, "tdx-5": 574}
SIGNED = {"sgx-3": 432, "tdx-4": 632, "tdx-5": 702}


class Platform:
    """A platform whose quotes this process has verified already, a moment ago and with these documents."""

    def __init__(self, kind: str) -> None:
        self.kind, self.vendor = kind, Vendor(os.urandom(32))
        self.tee = kind[:3]
        self.anchor = TrustAnchor(root_der=self.vendor.root_der, simulated=True)
        self.collateral = self.vendor.collateral(self.tee, now=NOW)
        self.known = self.quote(os.urandom(64))
        assert self.ask(self.known)["verdict"] == "verified"

    def quote(self, report_data: bytes, faults: Faults = NO_FAULTS, *, code: bytes = b"code") -> bytes:
        if self.tee == "sgx":
            facts = SgxFacts(mr_enclave=code.ljust(32), mr_signer=b"S" * 32, config_id=code)
            return quote_sgx(self.vendor, facts, report_data=report_data, faults=faults)
        facts = TdxFacts(mr_td=code.ljust(48), rtmrs=(bytes(48),) * 4, mr_config_id=code)
        version = int(self.kind[-1])
        return quote_tdx(self.vendor, facts, report_data=report_data, version=version, faults=faults)

    def ask(self, quote: bytes, **other):
        asked = {"collateral": self.collateral, "now": NOW, "anchor": self.anchor} | other
        return verify_quote(quote, **asked)

    def refused_at(self, quote: bytes, **other) -> str:
        facts = self.ask(quote, **other)
        assert facts["verdict"] == "rejected"
        return facts["step"]


@pytest.fixture(params=KINDS)
def platform(request) -> Platform:
    return Platform(request.param)


def test_next_quote_with_other_report_data_is_verified_and_says_what_it_says(platform: Platform) -> None:
    wanted = os.urandom(64)
    facts = platform.ask(platform.quote(wanted))
    assert facts["verdict"] == "verified"
    assert facts["claims"]["report_data"] == wanted.hex()
    hits = CERTIFICATIONS.hits
    first = platform.ask(platform.known)
    assert CERTIFICATIONS.hits == hits + 1  # so the tests below are about what is remembered
    said = json.dumps(first)
    assert said.replace(first["claims"]["report_data"], wanted.hex()) == json.dumps(facts)


def test_another_workload_on_the_known_platform_is_told_as_what_it_is(platform: Platform) -> None:
    hits = CERTIFICATIONS.hits
    facts = platform.ask(platform.quote(os.urandom(64), code=b"other code"))
    assert CERTIFICATIONS.hits == hits + 1
    assert facts["verdict"] == "verified"
    assert facts["claims"]["measurement"] != platform.ask(platform.known)["claims"]["measurement"]


def test_code_of_another_workload_under_the_known_signature_is_refused(platform: Platform) -> None:
    end = SIGNED[platform.kind]
    other = platform.quote(os.urandom(64), code=b"other code")
    assert platform.refused_at(other[:end] + platform.known[end:]) == "signature"


def test_report_data_of_the_attackers_choice_under_the_known_signature_is_refused(platform: Platform) -> None:
    at = REPORT_DATA[platform.kind]
    forged = platform.known[:at] + os.urandom(64) + platform.known[at + 64 :]
    assert platform.refused_at(forged) == "signature"


def test_report_data_of_the_attackers_choice_under_a_key_of_its_own_is_refused(platform: Platform) -> None:
    at, end = REPORT_DATA[platform.kind], SIGNED[platform.kind]
    signed = platform.known[:at] + os.urandom(64) + platform.known[at + 64 : end]
    key = ec.generate_private_key(ec.SECP256R1())
    forged = signed + platform.known[end : end + 4] + sign_raw(key, signed) + platform.known[end + 68 :]
    assert platform.refused_at(forged) == "signature"
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    with_key = forged[: end + 68] + public + forged[end + 132 :]
    assert platform.refused_at(with_key) == "quoting-enclave"


@pytest.mark.parametrize("raw", [bytes(64), b"\xff" * 64, bytes(32) + b"\x01" * 32, b"\x01" * 32 + bytes(32)])
def test_signature_of_extreme_numbers_is_refused(platform: Platform, raw: bytes) -> None:
    end = SIGNED[platform.kind] + 4
    forged = platform.known[:end] + raw + platform.known[end + 64 :]
    assert platform.refused_at(forged) == "signature"


def test_signature_of_an_earlier_quote_does_not_pass_for_a_later_one(platform: Platform) -> None:
    end = SIGNED[platform.kind] + 4
    later = platform.quote(os.urandom(64))
    swapped = later[:end] + platform.known[end : end + 64] + later[end + 64 :]
    assert platform.refused_at(swapped) == "signature"


def test_debug_workload_on_the_known_platform_is_refused(platform: Platform) -> None:
    assert platform.refused_at(platform.quote(os.urandom(64), Faults(debug=True))) == "attributes"


def test_known_platform_is_refused_under_another_root(platform: Platform) -> None:
    other = TrustAnchor(root_der=Vendor(os.urandom(32)).root_der, simulated=True)
    assert platform.refused_at(platform.known, anchor=other) in ("collateral", "certificates")


def test_known_platform_is_refused_once_its_certificate_is_revoked(platform: Platform) -> None:
    revoked = platform.vendor.collateral(platform.tee, now=NOW, faults=Faults(revoked="pck"))
    assert platform.refused_at(platform.quote(os.urandom(64)), collateral=revoked) == "certificates"


def test_known_platform_is_out_of_date_once_the_vendor_says_so(platform: Platform) -> None:
    newer = platform.vendor.collateral(platform.tee, now=NOW, faults=Faults(tcb_status="OutOfDate"))
    facts = platform.ask(platform.quote(os.urandom(64)), collateral=newer)
    assert facts["status"] == "OutOfDate"
    assert platform.ask(platform.quote(os.urandom(64)))["status"] == "UpToDate"


@pytest.mark.parametrize("moved", [timedelta(days=-400), timedelta(days=400), timedelta(days=40)])
def test_known_platform_is_refused_outside_the_windows_of_its_documents(platform: Platform, moved: timedelta) -> None:
    assert platform.refused_at(platform.quote(os.urandom(64)), now=NOW + moved) in ("collateral", "certificates")


def test_documents_that_run_out_within_the_hour_are_asked_about_each_time(platform: Platform) -> None:
    end = parse_collateral(platform.collateral).expires
    before = end - timedelta(seconds=1)
    assert platform.ask(platform.quote(os.urandom(64)), now=before)["verdict"] == "verified"
    assert platform.refused_at(platform.quote(os.urandom(64)), now=end + timedelta(seconds=1)) == "collateral"


def padded(platform: Platform, filling: bytes) -> bytes:
    """Return the known quote with ``filling`` in its certificate chain, which nobody signed."""
    quote, chain, end = platform.known, platform.vendor.pck_chain, SIGNED[platform.kind]
    at, filled = quote.rfind(chain), filling + chain
    quote = quote[: at - 4] + struct.pack("<I", len(filled)) + filled
    if platform.tee == "tdx":
        within = end + 4 + 128 + 2
        quote = quote[:within] + struct.pack("<I", len(quote) - within - 4) + quote[within + 4 :]
    return quote[:end] + struct.pack("<I", len(quote) - end - 4) + quote[end + 4 :]


def test_padding_in_a_certification_fills_no_memory(platform: Platform) -> None:
    asked = 64
    bulk = b"#" * 28_000
    assert platform.ask(padded(platform, bulk))["verdict"] == "verified"  # what is kept once is kept by now
    tracemalloc.start()
    for number in range(asked):
        assert platform.ask(padded(platform, b"%d" % number + bulk))["verdict"] == "verified"
    held, _ = tracemalloc.take_snapshot(), tracemalloc.stop()
    kept = [one for one in held.statistics("filename") if "certification.py" in one.traceback[0].filename]
    assert sum(one.size for one in kept) < asked * 4096
    assert len(CERTIFICATIONS) <= REMEMBERED


def test_same_collateral_with_and_without_a_chain_of_its_own_is_told_apart(platform: Platform) -> None:
    members = json.loads(platform.collateral)
    text = json.dumps(members | {"pck_certificate_chain": Vendor(os.urandom(32)).pck_chain.decode()})
    assert platform.ask(platform.known, collateral=text)["verdict"] == "verified"  # it brings its own chain
    with_chain = parse_collateral(text)
    assert with_chain.without_chain is not None
    assert with_chain.without_chain.digest == with_chain.digest
    quote = parse_quote(platform.known)
    with pytest.raises(ValueError):
        verify_cryptography(quote, platform.known, collateral=with_chain, anchor=platform.anchor, now=NOW)


WARM = {kind: Platform(kind) for kind in KINDS}


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_whatever_is_changed_is_verified_only_if_the_library_verifies_it_whole(kind: str, data) -> None:
    platform = WARM[kind]
    changed = bytearray(platform.known)
    for at in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=3)):
        changed[at] = data.draw(st.integers(0, 255))
    if platform.ask(bytes(changed))["verdict"] == "verified":
        seconds = int(NOW.timestamp())
        collateral = parse_collateral(platform.collateral).engine
        library = dcap_qvl.QuoteVerifier(platform.vendor.root_der)
        library.verify_with_policy(bytes(changed), collateral, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_whatever_the_known_platform_signs_is_judged_as_the_library_judges_it_whole(kind: str, data) -> None:
    platform = WARM[kind]
    body = bytearray(platform.known[: SIGNED[kind]])
    for at in data.draw(st.lists(st.integers(8, len(body) - 1), min_size=1, max_size=3)):
        body[at] = data.draw(st.integers(0, 255))
    changed = sign_quote(platform.vendor, platform.tee, bytes(body))
    if platform.ask(changed)["verdict"] == "verified":
        seconds = int(NOW.timestamp())
        collateral = parse_collateral(platform.collateral).engine
        library = dcap_qvl.QuoteVerifier(platform.vendor.root_der)
        library.verify_with_policy(changed, collateral, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))
