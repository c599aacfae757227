"""Evidence is found in a file in whatever form people have it, and nothing else is taken for evidence."""

import base64
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "attestation"))

from ra_tls_maker import FORMS, make_certificate

from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.errors import UsageError
from strongroom.parties.evidence_files import read_evidence
from strongroom.parties.inspection import inspect_path

VENDOR = Vendor(b"f" * 32)
SGX_FACTS = SgxFacts(mr_enclave=b"G" * 32, mr_signer=b"S" * 32)
SGX = quote_sgx(VENDOR, SGX_FACTS, report_data=bytes(64))
TDX = quote_tdx(VENDOR, TdxFacts(mr_td=b"T" * 48, rtmrs=(bytes(48),) * 4), report_data=bytes(64))
B64, URL = base64.b64encode(TDX).decode(), base64.urlsafe_b64encode(TDX).decode().rstrip("=")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("raw", TDX),
        ("padded", TDX + bytes(100)),
        ("hex", TDX.hex().encode()),
        ("hex with prefix and line breaks", b"0x" + TDX[:99].hex().encode() + b"\n" + TDX[99:].hex().upper().encode()),
        ("base64", B64.encode()),
        ("base64 in lines", base64.encodebytes(TDX)),
        ("base64 for addresses, unpadded", URL.encode()),
        ("JSON, evidence", json.dumps({"tee": "tdx", "quote": B64, "event_log": ""}).encode()),
        ("JSON, a member in hex", json.dumps({"quote": "0x" + TDX.hex(), "vm_config": "{}"}).encode()),
        ("JSON, deep", json.dumps({"a": [{"evidence": {"Quote": URL, "svn": 1}}]}).encode()),
        ("JSON, a list of numbers", json.dumps({"tee": {"Dstack": {"quote": list(TDX)}}}).encode()),
        ("JSON, a list alone", json.dumps(list(TDX)).encode()),
        ("JSON, text alone", json.dumps(B64).encode()),
        ("JSON within JSON", json.dumps({"primary_evidence": json.dumps({"quote": B64})}).encode()),
    ],
)
def test_a_quote_is_found_in_every_form(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_evidence(tmp_path / "file").quote.startswith(TDX), name
    assert inspect_path(tmp_path / "file").kind == "TDX quote"


def test_the_event_log_beside_a_quote_comes_with_it(tmp_path: Path) -> None:
    log = bytes(32) + b"Spec ID Event03\0" + bytes(40)
    (tmp_path / "file").write_text(json.dumps({"quote": B64, "cc_eventlog": base64.b64encode(log).decode()}))
    assert read_evidence(tmp_path / "file").event_log == log


def test_a_file_of_several_quotes_needs_a_number(tmp_path: Path) -> None:
    for content in (f"0x{SGX.hex()} 0x{TDX.hex()}\n", json.dumps([SGX.hex(), TDX.hex()])):
        (tmp_path / "two.hex").write_text(content)
        with pytest.raises(UsageError, match="holds 2 quotes"):
            read_evidence(tmp_path / "two.hex")
        assert read_evidence(tmp_path / "two.hex#0").quote == SGX
        assert read_evidence(tmp_path / "two.hex#1").quote == TDX
        with pytest.raises(UsageError, match="number 2"):
            read_evidence(tmp_path / "two.hex#2")


@pytest.mark.parametrize("form", FORMS)
def test_the_quote_in_an_ra_tls_certificate_is_found_with_its_certificate(tmp_path: Path, form: str) -> None:
    der = make_certificate(form, lambda data: quote_sgx(VENDOR, SGX_FACTS, report_data=data))
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    for content in (der, pem):
        (tmp_path / "certificate").write_bytes(content)
        found = read_evidence(tmp_path / "certificate")
        assert found.certificate is not None
        assert found.certificate.binding(found.quote[368:432])
        shown = inspect_path(tmp_path / "certificate")
        assert (shown.kind, shown.facts["sufficient"]) == ("RA-TLS certificate", False)


@pytest.mark.parametrize("content", [b'{"a": 1}', b"[1, 2]", b"{", b'"text"', VENDOR.root_der])
def test_json_or_a_certificate_without_evidence_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(MalformedEvidenceError, match="expected"):
        read_evidence(tmp_path / "file")


def test_what_is_not_recognised_is_left_to_the_verifier_as_it_is(tmp_path: Path) -> None:
    for content in (b"", b"abc", os.urandom(3) + bytes(5000), b"00" * 600):
        (tmp_path / "file").write_bytes(content)
        assert read_evidence(tmp_path / "file").quote in (content, bytes(600))


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        read_evidence(tmp_path / "nothing")
