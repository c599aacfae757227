"""Collateral saved by other tools verifies like ours, its signed documents untouched; nothing is made to look good."""

import base64
import json
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral_forms import normalise_collateral
from strongroom.attestation.collateral_sources import read_collateral
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"c" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
QUOTE = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
TEXT = VENDOR.collateral("sgx", now=NOW)
OURS = json.loads(TEXT)
CRLS = ("root_ca_crl", "pck_crl")


def crls(encode) -> dict:
    return {name: encode(bytes.fromhex(OURS[name])) for name in CRLS}


def pem(der: bytes) -> str:
    return f"-----BEGIN X509 CRL-----\n{base64.encodebytes(der).decode()}-----END X509 CRL-----\n"


def as_intels_library_keeps_it() -> dict:
    kept = {name: value for name, value in OURS.items() if not name.endswith("_signature")}
    for name, wrapper in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
        kept[name] = f'{{"{wrapper}":{OURS[name]},"signature":"{OURS[name + "_signature"]}"}}'
    return {"version": 3, "tee_type": 0, **kept}


FORMS = {
    "base64": OURS | crls(lambda der: base64.b64encode(der).decode()),
    "base64 for addresses": OURS | crls(lambda der: base64.urlsafe_b64encode(der).decode().rstrip("=")),
    "PEM": OURS | crls(pem),
    "numbers": OURS | crls(list) | {"tcb_info_signature": list(bytes.fromhex(OURS["tcb_info_signature"]))},
    "0x": OURS | crls(lambda der: "0x" + der.hex().upper()),
    "headers": OURS | {name: urllib.parse.quote(OURS[name]) for name in OURS if name.endswith("_chain")},
    "Intel's library": as_intels_library_keeps_it(),
}


def judge(text: str) -> dict:
    return verify_quote(QUOTE, collateral=text, now=NOW, anchor=ANCHOR)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_verdict_and_the_digest_of_ours(tmp_path: Path, form: str) -> None:
    (tmp_path / "collateral.json").write_text(json.dumps(FORMS[form]))
    facts = judge(read_collateral(tmp_path / "collateral.json"))
    assert facts["verdict"] == "verified", facts["reason"]
    assert facts["claims"]["collateral"]["digest"] == judge(TEXT)["claims"]["collateral"]["digest"]


def test_our_own_form_and_what_is_no_collateral_stay_as_they_are() -> None:
    for text in (TEXT, "", "{", "[]", "{}", '{"tcb_info": 5}', "-----BEGIN CERTIFICATE-----", '"x"'):
        assert normalise_collateral(text) == text


@pytest.mark.parametrize("form", FORMS)
def test_a_document_edited_in_any_form_is_refused_as_in_ours(form: str) -> None:
    edited = dict(FORMS[form])
    edited["tcb_info"] = edited["tcb_info"].replace("UpToDate", "UpToDat3", 1)
    assert edited["tcb_info"] != FORMS[form]["tcb_info"]
    facts = judge(normalise_collateral(json.dumps(edited)))
    assert (facts["verdict"], facts["step"]) == ("rejected", "collateral")


def test_an_answer_without_its_signature_gets_none_from_elsewhere() -> None:
    kept = as_intels_library_keeps_it()
    kept["tcb_info"] = kept["tcb_info"].partition(',"signature"')[0] + "}"
    assert judge(normalise_collateral(json.dumps(kept)))["verdict"] == "rejected"
