"""Judge real quotes of Intel machines with the collateral of their day; the folder is named by STRONGROOM_VECTORS."""

import contextlib
import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl
import pytest

from strongroom.attestation.anchors import INTEL
from strongroom.attestation.appraisal import CollateralMemory, Verifier
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.collateral_sources import CollateralFile
from strongroom.attestation.evidence import Evidence, parse_quote
from strongroom.attestation.evidence.event_log import parse_event_log, replay
from strongroom.attestation.evidence.pck import parse_pck_chain
from strongroom.attestation.evidence.quote import INTEL_QE_VENDOR
from strongroom.attestation.explain import describe_quote, explain_verdict
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError
from strongroom.attestation.reference_values import measure_domain
from strongroom.errors import StrongroomError
from strongroom.parties.evidence_files import EvidenceFile, read_evidence
from strongroom.parties.inspection import inspect_path

VECTORS = Path(os.environ.get("STRONGROOM_VECTORS", Path(__file__).resolve().parents[3] / "shared" / "vectors"))
pytestmark = pytest.mark.vectors
if not (VECTORS / "expected.json").is_file():
    reason = f"NO REAL QUOTES WERE JUDGED: {VECTORS} has no expected.json; name the folder in STRONGROOM_VECTORS"
    warnings.warn(pytest.PytestWarning(reason), stacklevel=1)
    pytest.skip(reason, allow_module_level=True)

CASES = json.loads((VECTORS / "expected.json").read_text())
VERIFIED = [case for case in CASES if case["result"] == "verified"]
# Refused before cryptography, where dcap-qvl goes on and refuses later: 39 bytes of text stand after the quote.
EARLIER = {"google-go-tdx-guest/tdx_prod_quote_SPR_E4.dat": ("format", "zero padding")}


def load(name: str) -> bytes:
    path, _, line = name.partition("#")
    data = (VECTORS / path).read_bytes()
    if not path.endswith(".hex"):
        return data
    return bytes.fromhex(data.decode().split()[int(line or 0)].removeprefix("0x"))


def judge(case: dict, quote: bytes | None = None, **changes: object) -> dict:
    arguments = {
        "collateral": (VECTORS / case["collateral"]).read_text(),
        "now": datetime.fromtimestamp(case["time"], UTC),
        **changes,
    }
    return verify_quote(load(case["quote"]) if quote is None else quote, **arguments)


def named(case: dict) -> str:
    return f"{case['quote']}@{case['collateral'].rpartition('/')[2]}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_real_quote_gets_the_verdict_it_deserves(case: dict) -> None:
    facts = judge(case)
    assert facts["verdict"] == case["result"]
    assert facts["simulated"] is False
    if case["result"] == "verified":
        assert (facts["status"], facts["advisories"]) == (case["status"], case["advisory_ids"])
        assert facts["claims"]["quote_version"] == case["version"]
        assert facts["claims"]["tee"] == case["tee"].lower()
        assert facts["claims"]["platform"]["fmspc"] == case["fmspc"]
        assert facts["step"] is None
    else:
        step, words = EARLIER.get(case["quote"], (facts["step"], case["error"]))
        assert facts["step"] == step in ("format", "tcb", "attributes")
        assert words in facts["reason"]
        assert facts["hint"]
        assert (facts["status"], facts["claims"]) == (None, {})
    assert case["result"] in explain_verdict(facts)
    json.dumps(facts)


@pytest.mark.parametrize("case", VERIFIED, ids=named)
def test_a_real_quote_with_one_bit_flipped_anywhere_is_rejected(case: dict) -> None:
    genuine = load(case["quote"])
    end = parse_quote(genuine).size
    for offset in [*range(0, 1100, 37), *range(1100, end, 211), end - 400]:
        flipped = bytearray(genuine)
        flipped[offset] ^= 0x10
        facts = judge(case, bytes(flipped))
        if facts["verdict"] == "verified":  # only where no byte of meaning is: the text around the certificates
            around = genuine[offset - 40 : offset + 40]
            assert b"-----" in around or genuine[offset] in b"\n\0", offset


@pytest.mark.parametrize("case", VERIFIED, ids=named)
def test_a_real_quote_is_rejected_outside_the_window_of_its_collateral(case: dict) -> None:
    first, last = case["window"]
    for time in (first - 86400, last + 86400):
        facts = judge(case, now=datetime.fromtimestamp(time, UTC))
        assert (facts["verdict"], facts["step"]) == ("rejected", "collateral")


@pytest.mark.parametrize("case", VERIFIED, ids=named)
def test_junk_after_a_real_quote_is_rejected_and_padding_is_not(case: dict) -> None:
    quote = load(case["quote"])
    end = parse_quote(quote).size
    assert judge(case, quote[:end])["verdict"] == "verified"
    assert judge(case, quote[:end] + bytes(99))["verdict"] == "verified"
    facts = judge(case, quote[:end] + bytes(15) + b"x")
    assert (facts["verdict"], facts["step"]) == ("rejected", "format")
    for cut in (0, 1, 47, 48, 431, end // 2, end - 1):
        assert judge(case, quote[:cut])["step"] == "format"


def test_every_quote_with_every_collateral_agrees_with_the_library_and_never_accepts_more() -> None:
    texts = sorted({case["collateral"] for case in CASES})
    for case in CASES:
        quote, now = load(case["quote"]), case["time"]
        for text in texts:
            collateral = (VECTORS / text).read_text()
            facts = verify_quote(quote, collateral=collateral, now=datetime.fromtimestamp(now, UTC))
            try:
                engine = dcap_qvl.QuoteCollateralV3.from_json(collateral)
                theirs = dcap_qvl.verify_with_root_ca(quote, engine, INTEL.root_der, now)
            except ValueError:
                assert facts["verdict"] == "rejected"
                continue
            assert facts["verdict"] == "verified", (case["quote"], text, facts["reason"])
            assert (facts["status"], facts["advisories"]) == (theirs.status, theirs.advisory_ids)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_our_parsers_read_what_the_library_reads(case: dict) -> None:
    quote = load(case["quote"])
    try:
        ours = parse_quote(quote)
    except MalformedEvidenceError:
        assert case["quote"] in EARLIER
        return
    theirs = dcap_qvl.parse_quote(quote)
    extension = parse_pck_chain(ours.signature.pck_chain).extension
    assert ours.report_data == theirs.report.report_data
    assert extension.fmspc.hex().upper() == theirs.fmspc() == case["fmspc"]
    pck = theirs.pck_extension()
    assert (extension.ppid, extension.cpusvn, extension.pcesvn) == (pck.ppid, pck.cpu_svn, pck.pce_svn)
    assert extension.platform_instance_id == (pck.platform_instance_id or b"")
    if ours.tee == "sgx":
        assert ours.report.mrenclave == theirs.report.mr_enclave
    else:
        report = theirs.report
        assert ours.report.mrtd == report.mr_td
        assert ours.report.rtmrs == (report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3)
    assert ours.measurement in describe_quote(quote)


def test_a_real_boot_log_replays_to_the_registers_of_its_quote_and_no_other_log_does() -> None:
    case = next(case for case in VERIFIED if "cos-113" in case["quote"])
    folder = VECTORS / "google-go-tdx-guest" / "ccel"
    log, asked = (folder / "ccel_data.dat").read_bytes(), (folder / "nonce.dat").read_bytes()
    quote = parse_quote(load(case["quote"]))
    assert replay(parse_event_log(log)) == quote.report.rtmrs
    assert measure_domain(log, mrtd=quote.report.mrtd) == (quote.measurement, quote.report.rtmrs)

    def appraise(event_log: bytes) -> str:
        source = CollateralFile(VECTORS / case["collateral"])
        evidence = Evidence(tee="tdx", quote=load(case["quote"]), event_log=event_log)
        verifier = Verifier(INTEL, source, memory=CollateralMemory())
        now = datetime.fromtimestamp(case["time"], UTC)
        return verifier.appraise(evidence, report_data=asked.ljust(64, b"\0"), now=now).tier

    assert appraise(log) == appraise(b"") == "affirming"
    other = (VECTORS / "coco-trustee" / "CCEL_data_ovmf").read_bytes()
    offset = log.index(b"kernel_cmdline") - 10
    edited = log[:offset] + bytes([log[offset] ^ 1]) + log[offset + 1 :]
    for forged in (other, edited, log[:65]):
        with pytest.raises(MeasurementError, match="RTMR"):
            appraise(forged)
    for broken in (log[:40], log[:300], b"x"):
        with pytest.raises(MalformedEvidenceError):
            appraise(broken)


def test_formats_nobody_verifies_any_more_fail_cleanly() -> None:
    for sample in ("sgx", "tdx-draft"):
        quote = (VECTORS / "intel-qvl-sample" / sample / "quote.dat").read_bytes()
        facts = judge(VERIFIED[0], quote)
        assert (facts["verdict"], facts["step"]) == ("rejected", "certificates")
    for other in ("google-go-tdx-guest/report.dat", "dstack/nitro_attestation.bin"):
        assert judge(VERIFIED[0], load(other))["step"] == "format"


def found_evidence() -> list[tuple[Path, EvidenceFile]]:
    """Return every file of the folder in which there is a DCAP quote, in whatever form."""
    found = []
    for path in sorted(one for one in VECTORS.rglob("*") if one.is_file()):
        for name in (path, *(Path(f"{path}#{number}") for number in range(2))):
            with contextlib.suppress(StrongroomError):
                one = read_evidence(name)
                if one.quote[12:28] == INTEL_QE_VENDOR:
                    found.append((name, one))
    return found


def test_every_quote_in_the_folder_agrees_with_the_library_whatever_form_it_is_in() -> None:
    """More quotes may lie there than are listed; with every collateral, ours is never the milder verdict."""
    texts = [(VECTORS / name).read_text() for name in sorted({case["collateral"] for case in CASES})]
    windows = [int(parse_collateral(text).expires.timestamp()) - 60 for text in texts]
    found = found_evidence()
    assert len(found) >= 20
    assert {one.certificate.form for _, one in found if one.certificate} == {"interoperable RA-TLS", "legacy RA-TLS"}
    for name, one in found:
        for text, now in zip(texts, windows, strict=True):
            facts = verify_quote(one.quote, collateral=text, now=datetime.fromtimestamp(now, UTC))
            try:
                engine = dcap_qvl.QuoteCollateralV3.from_json(text)
                theirs = dcap_qvl.verify_with_root_ca(one.quote, engine, INTEL.root_der, now)
            except ValueError:
                assert facts["verdict"] == "rejected", name
            else:
                assert (facts["status"], facts["advisories"]) == (theirs.status, theirs.advisory_ids), name


def test_real_ra_tls_certificates_commit_to_their_keys_and_are_never_sufficient() -> None:
    certificates = sorted((VECTORS / "ra-tls-certs").rglob("*.pem"))
    assert len(certificates) == 5
    for path in certificates:
        shown = inspect_path(path)
        assert (shown.kind, shown.facts["sufficient"]) == ("RA-TLS certificate", False)
        assert shown.facts["binding"].startswith("SHA-256 of"), path
