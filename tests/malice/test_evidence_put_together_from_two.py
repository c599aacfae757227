"""The attacker puts a quote together from parts of several genuine ones, or signs a body with a key of its own."""

import hashlib
import os
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.pki import Vendor, sign_raw
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(os.urandom(32))
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
COLLATERAL = VENDOR.collateral("sgx", now=NOW)
GOOD = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"G" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
BAD = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"B" * 32, mr_signer=b"S" * 32), report_data=os.urandom(64))


def step_of(quote: bytes) -> str:
    facts = verify_quote(quote, collateral=COLLATERAL, now=NOW, anchor=ANCHOR)
    assert facts["verdict"] == "rejected"
    return facts["step"]


def test_a_body_under_another_quotes_signature_is_refused() -> None:
    assert step_of(BAD[:432] + GOOD[432:]) == "signature"


@pytest.mark.parametrize("field", [112, 176, 304, 306, 368, 28])
def test_a_changed_measurement_signer_product_version_or_report_data_is_refused(field: int) -> None:
    changed = bytearray(GOOD)
    changed[field] ^= 1
    assert step_of(bytes(changed)) == "signature"


def test_a_body_signed_by_the_attackers_own_attestation_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    forged = BAD[:436] + sign_raw(key, BAD[:432]) + public + GOOD[564:]
    assert step_of(forged) == "quoting-enclave"


def test_a_quoting_enclaves_report_edited_to_vouch_for_that_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    auth = GOOD[1014:1046]
    report = GOOD[564:884] + hashlib.sha256(public + auth).digest() + bytes(32)
    forged = BAD[:436] + sign_raw(key, BAD[:432]) + public + report + GOOD[948:]
    assert step_of(forged) == "quoting-enclave"


def test_an_enclaves_own_report_does_not_pass_for_the_quoting_enclaves() -> None:
    assert step_of(GOOD[:564] + GOOD[48:432] + GOOD[948:]) == "quoting-enclave"
