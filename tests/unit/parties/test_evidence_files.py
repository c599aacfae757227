"""Evidence is found in a file in whatever form people have it, and nothing else is taken for evidence."""

import base64
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "attestation"))

from amd_vendor import AmdVendor, certificate_table
from azure_guest import evidence, hcl_report, runtime_data
from cryptography.hazmat.primitives.serialization import Encoding
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


def open_enclave(quote: bytes) -> bytes:
    return (1).to_bytes(4, "little") + (2).to_bytes(4, "little") + len(quote).to_bytes(8, "little") + quote


@pytest.mark.parametrize("form", ["raw", "hex"])
def test_a_quote_is_found_in_an_open_enclave_report(tmp_path: Path, form: str) -> None:
    content = open_enclave(SGX)
    (tmp_path / "file").write_bytes(content.hex().encode() if form == "hex" else content)
    assert read_evidence(tmp_path / "file").quote == SGX
    (tmp_path / "cut").write_bytes(content[:-1])
    assert read_evidence(tmp_path / "cut").quote == content[:-1]


def test_a_report_and_its_certificates_are_found_in_what_configfs_tsm_wrote(tmp_path: Path) -> None:
    amd = AmdVendor("Genoa")
    table = certificate_table([("63da758d-e664-4564-adc5-f4b93be8accd", amd.vcek().public_bytes(Encoding.DER))])
    report = amd.report(version=5)
    body = {"provider": "sev_guest\n", "outblob": url(report), "auxblob": url(table)}
    (tmp_path / "file").write_text(json.dumps(body))
    assert read_evidence(tmp_path / "file").quote == report + table
    assert inspect_path(tmp_path / "file").facts["quoting_enclave"]["certificates"] == ["vcek"]
    (tmp_path / "alone").write_text(json.dumps({"outblob": body["outblob"]}))
    assert inspect_path(tmp_path / "alone").kind == "SNP report"


def url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_an_azure_guests_evidence_is_found_inside_another_object(tmp_path: Path) -> None:
    inner = json.loads(evidence(AmdVendor("Milan"), asked=bytes(range(64))))
    (tmp_path / "file").write_text(json.dumps({"platform": "az-snp", "evidence": inner}))
    assert json.loads(read_evidence(tmp_path / "file").quote) == inner
    assert inspect_path(tmp_path / "file").kind == "azure-snp evidence"


def test_several_quotes_in_one_file_are_listed(tmp_path: Path) -> None:
    for name, content in (("hex", f"{SGX.hex()}\n{TDX.hex()}\n"), ("json", json.dumps([SGX.hex(), TDX.hex()]))):
        (tmp_path / name).write_text(content)
        found = inspect_path(tmp_path / name)
        assert found.kind == "2 pieces of evidence"
        assert [one.split()[0] for one in found.facts["found"]] == ["SGX", "TDX"]


TOKEN = (
    ".".join(url(json.dumps(one).encode()) for one in ({"alg": "RS256", "kid": "k"}, {"iss": "i", "exp": 1})) + ".c2ln"
)


@pytest.mark.parametrize("content", [TOKEN, f"{TOKEN}\n", json.dumps({"token": TOKEN})])
def test_a_token_is_shown_and_never_taken_for_evidence(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    found = inspect_path(tmp_path / "file")
    assert (found.kind, found.facts["verified"], found.facts["exp"]) == ("token (JWT)", False, "1970-01-01T00:00:01Z")
    with pytest.raises(MalformedEvidenceError) as refusal:
        read_evidence(tmp_path / "file")
    assert "attest token" in refusal.value.hint


@pytest.mark.parametrize("content", ["eyJ.e.", "eyJhIjoxfQ.W10.", "eyJhIjoxfQ.eyJleHAiOiJ4In0.", f"{TOKEN[:-40]}"])
def test_a_damaged_token_is_called_damaged_or_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    try:
        assert inspect_path(tmp_path / "file").kind == "damaged token"
    except UsageError:
        return


def test_a_paravisors_report_alone_is_shown_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(hcl_report(AmdVendor("Milan").report(), runtime_data(user_data=bytes(64))))
    found = inspect_path(tmp_path / "file")
    assert (found.kind, found.facts["verified"], found.facts["hardware"]["tee"]) == (
        "paravisor's report (HCL)",
        False,
        "snp",
    )
    with pytest.raises(MalformedEvidenceError, match="a paravisor's report alone"):
        read_evidence(tmp_path / "file")


def test_certificates_without_evidence_are_shown_as_such(tmp_path: Path) -> None:
    chain = AmdVendor("Turin").vcek().public_bytes(Encoding.DER)
    for name, content, many in (("vcek", chain, "1 certificate"), ("chain", VENDOR.pck_chain, "3 certificates")):
        (tmp_path / name).write_bytes(content)
        found = inspect_path(tmp_path / name)
        assert (found.kind, "proves nothing" in found.facts["hint"]) == (many, True)


def test_a_chips_endorsements_are_shown_with_their_revocation_list(tmp_path: Path) -> None:
    amd = AmdVendor("Milan")
    (tmp_path / "with").write_text(amd.endorsements(crl=amd.crl(now=datetime(2026, 3, 1, tzinfo=UTC))))
    (tmp_path / "without").write_text(amd.endorsements())
    assert inspect_path(tmp_path / "with").facts["revocation"].startswith("list of 2026-02-28")
    assert inspect_path(tmp_path / "without").facts["revocation"] == "no list"
    assert "SEV-VCEK" in inspect_path(tmp_path / "without").facts["certificates"][0]
