"""Our verdict on SGX quotes is that of Intel's own library, wherever that library judges at all."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from intels_verifier import STATUSES, ask

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"i" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
VECTORS = Path(os.environ.get("STRONGROOM_VECTORS", Path(__file__).resolve().parents[4] / "shared" / "vectors"))
REAL = {
    "phala-dcap-qvl/sgx_quote": ("phala-2025-sgx-00A067.json", 1752919218),
    "automata-dcap/sample_quotes.hex#0": ("automata-0825-sgx-00606A.json", 1757824546),
}


def both(quote: bytes, collateral: str, *, anchor: TrustAnchor, now: datetime) -> tuple[dict, str]:
    facts = verify_quote(quote, collateral=collateral, now=now, anchor=anchor)
    return facts, ask(quote, collateral, root_der=anchor.root_der, now=now)


def quote_of(faults: Faults) -> bytes:
    return quote_sgx(
        VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(range(64)), faults=faults
    )


@pytest.mark.parametrize("status", STATUSES.values())
def test_both_say_the_same_of_every_status(status: str) -> None:
    faults = Faults(tcb_status=status, advisories=() if status == "UpToDate" else ("INTEL-SA-00615",))
    collateral = VENDOR.collateral("sgx", now=NOW, faults=faults)
    facts, theirs = both(quote_of(faults), collateral, anchor=ANCHOR, now=NOW)
    assert facts["status"] == theirs == status


@pytest.mark.parametrize(
    "faults",
    [
        Faults(revoked="pck"),
        Faults(revoked="platform-ca"),
        Faults(revoked="tcb-signer"),
        Faults(expired_collateral=True),
        Faults(tcb_info_signed_by_pck=True),
        Faults(qe_identity_signed_by_pck=True),
        Faults(other_fmspc=True),
    ],
    ids=str,
)
def test_both_refuse_the_same_collateral(faults: Faults) -> None:
    facts, theirs = both(quote_of(faults), VENDOR.collateral("sgx", now=NOW, faults=faults), anchor=ANCHOR, now=NOW)
    assert facts["verdict"] == "rejected"
    assert theirs not in STATUSES.values()


def test_both_refuse_a_flipped_bit_and_another_root() -> None:
    sound, collateral = quote_of(Faults()), VENDOR.collateral("sgx", now=NOW)
    for offset in (50, 120, 200, 400, 440, 520, 600, 700, 960, 1020):
        flipped = bytearray(sound)
        flipped[offset] ^= 1
        facts, theirs = both(bytes(flipped), collateral, anchor=ANCHOR, now=NOW)
        assert (facts["verdict"], theirs in STATUSES.values()) == ("rejected", False), offset
    facts, theirs = both(sound, collateral, anchor=INTEL, now=NOW)
    assert (facts["verdict"], theirs in STATUSES.values()) == ("rejected", False)


def test_we_refuse_a_debug_enclave_of_which_the_library_says_nothing() -> None:
    faults = Faults(debug=True)
    facts, theirs = both(quote_of(faults), VENDOR.collateral("sgx", now=NOW), anchor=ANCHOR, now=NOW)
    assert (facts["verdict"], theirs) == ("rejected", "UpToDate")


@pytest.mark.vectors
@pytest.mark.parametrize("name", REAL)
def test_both_say_the_same_of_a_real_quote(name: str) -> None:
    if not (VECTORS / "expected.json").is_file():
        pytest.skip(f"no real quotes at {VECTORS}")
    path, _, line = name.partition("#")
    data = (VECTORS / path).read_bytes()
    quote = bytes.fromhex(data.decode().split()[int(line)].removeprefix("0x")) if line else data
    collateral_name, seconds = REAL[name]
    collateral = (VECTORS / "composed-collateral" / collateral_name).read_text()
    facts, theirs = both(quote, collateral, anchor=INTEL, now=datetime.fromtimestamp(seconds, UTC))
    assert facts["status"] == theirs
    assert json.dumps(facts)
