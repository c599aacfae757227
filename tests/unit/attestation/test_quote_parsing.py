"""Quotes are read to the byte, or refused naming the field that is wrong."""

import struct

import pytest

from strongroom.attestation.evidence import Evidence, parse_quote, sgx_measurement, tdx_measurement
from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx

VENDOR = Vendor(b"q" * 32)
ASKED = bytes(range(64))
RTMRS = (b"0" * 48, b"1" * 48, b"2" * 48, b"3" * 48)
SGX = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32, product=7, svn=9), report_data=ASKED)
TDX4 = quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=RTMRS, mr_config_id=b"C" * 48), report_data=ASKED)
TDX5 = quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=RTMRS), report_data=ASKED, version=5)
ALL = {"sgx": SGX, "tdx4": TDX4, "tdx5": TDX5}


def test_an_sgx_quote_is_read_field_by_field() -> None:
    quote = parse_quote(SGX)
    report = quote.report
    assert (quote.tee, quote.header.version, quote.size, quote.padding) == ("sgx", 3, len(SGX), 0)
    assert (report.mrenclave, report.mrsigner, report.isvprodid, report.isvsvn) == (b"E" * 32, b"S" * 32, 7, 9)
    assert quote.measurement == sgx_measurement(b"E" * 32) == "sgx:" + "45" * 32
    assert quote.report_data == ASKED
    assert quote.signed == SGX[:432]
    assert quote.signature.pck_chain.endswith(b"-----\n")


@pytest.mark.parametrize(("data", "version", "body"), [(TDX4, 4, "1.0"), (TDX5, 5, "1.5")])
def test_a_tdx_quote_is_read_field_by_field(data: bytes, version: int, body: str) -> None:
    quote = parse_quote(data)
    assert (quote.tee, quote.header.version, quote.report.body_version) == ("tdx", version, body)
    assert (quote.report.mrtd, quote.report.rtmrs, quote.report_data) == (b"D" * 48, RTMRS, ASKED)
    assert quote.measurement == tdx_measurement(b"D" * 48, RTMRS)
    assert len(quote.report.mrservicetd) == (48 if version == 5 else 0)


def test_the_measurement_of_a_trust_domain_covers_every_register_in_order() -> None:
    swapped = (RTMRS[1], RTMRS[0], *RTMRS[2:])
    assert tdx_measurement(b"D" * 48, swapped) != tdx_measurement(b"D" * 48, RTMRS)
    assert tdx_measurement(b"d" * 48, RTMRS) != tdx_measurement(b"D" * 48, RTMRS)


@pytest.mark.parametrize("data", ALL.values(), ids=ALL)
def test_zeros_after_a_quote_are_padding_and_anything_else_is_refused(data: bytes) -> None:
    assert parse_quote(data + bytes(3065)).padding == 3065
    with pytest.raises(MalformedEvidenceError, match=f"0x21 at offset {len(data) + 4}.*zero padding"):
        parse_quote(data + bytes(4) + b"!")


@pytest.mark.parametrize("data", ALL.values(), ids=ALL)
def test_a_quote_cut_anywhere_is_refused(data: bytes) -> None:
    for end in [*range(800), *range(800, len(data), 97), len(data) - 1]:
        with pytest.raises(MalformedEvidenceError) as refused:
            parse_quote(data[:end])
        assert refused.value.step == "format"
        assert refused.value.field.startswith("quote")


@pytest.mark.parametrize(
    ("data", "offset", "value", "field"),
    [
        (SGX, 0, b"\x02\x00", "quote.header.version"),
        (SGX, 0, b"\x04\x00", "quote.header.tee_type"),
        (SGX, 4, b"\x81", "quote.header.tee_type"),
        (TDX4, 4, b"\x00", "quote.header.tee_type"),
        (SGX, 2, b"\x03", "quote.header.attestation_key_type"),
        (SGX, 12, b"\x00", "quote.header.qe_vendor"),
        (TDX5, 48, struct.pack("<H", 1), "quote.body.type"),
        (TDX5, 48, struct.pack("<H", 2), "quote.body.size"),
        (TDX5, 50, struct.pack("<I", 584), "quote.body.size"),
        (SGX, 432, struct.pack("<I", 1 << 31), "quote.signature_length"),
        (SGX, 432, struct.pack("<I", 700), "quote.signature.chain"),
        (TDX4, 764, struct.pack("<H", 5), "quote.signature.certification_type"),
        (TDX4, 766, struct.pack("<I", 3), "quote.signature.certification_length"),
        (SGX, 1012, struct.pack("<H", 65535), "quote.signature.qe_auth_data"),
        (SGX, 1048, struct.pack("<I", 8), "quote.signature"),
    ],
)
def test_a_length_or_type_that_does_not_fit_is_refused_by_name(
    data: bytes, offset: int, value: bytes, field: str
) -> None:
    changed = data[:offset] + value + data[offset + len(value) :]
    with pytest.raises(MalformedEvidenceError) as refused:
        parse_quote(changed)
    assert refused.value.field == field
    assert refused.value.got
    assert refused.value.expected


def test_evidence_travels_and_comes_back_the_same() -> None:
    evidence = Evidence(tee="tdx", quote=TDX4, event_log=b"log")
    assert Evidence.from_json(evidence.to_json()) == evidence


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"tee": "sgx"},
        {"tee": "sev", "quote": "AAAA"},
        {"tee": "sgx", "quote": ""},
        {"tee": "sgx", "quote": "not base64!"},
        {"tee": "sgx", "quote": "A" * (1 << 20)},
        {"tee": "sgx", "quote": 7},
        {"tee": "sgx", "quote": "AAAA", "event_log": None},
        {"tee": ["sgx"], "quote": "AAAA"},
        {"tee": "sgx", "quote": "AAAA", "trusted": True},
    ],
)
def test_evidence_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(MalformedEvidenceError):
        Evidence.from_json(value)  # type: ignore[arg-type]
