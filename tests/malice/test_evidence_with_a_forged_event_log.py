"""The host presents a genuine quote with an event log that tells another story of the boot."""

import hashlib
import struct
from datetime import UTC, datetime

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import CollateralMemory, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.evidence.event_log import MAX_EVENTS, parse_event_log, replay
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"l" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
ASKED = bytes(range(64))


def event(register: int, text: bytes, *, digest: bytes | None = None) -> bytes:
    measured = hashlib.sha384(text).digest() if digest is None else digest
    return struct.pack("<IIIH", register, 0xD, 1, 0x0C) + measured + struct.pack("<I", len(text)) + text


def log(*events: bytes) -> bytes:
    head = b"Spec ID Event03\0" + bytes(17)
    return struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(head)) + head + b"".join(events)


BOOT = (event(1, b"firmware"), event(2, b"boot loader"), event(2, b"kernel"), event(3, b"command line"))
RTMRS = replay(parse_event_log(log(*BOOT)))
QUOTE = quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=RTMRS), report_data=ASKED)


class Served:
    def collateral(self, quote: bytes) -> str:
        return VENDOR.collateral("sgx" if quote[0] == 3 else "tdx", now=NOW)


def appraise(event_log: bytes, *, tee: str = "tdx", quote: bytes = QUOTE):
    verifier = Verifier(ANCHOR, Served(), memory=CollateralMemory())
    return verifier.appraise(Evidence(tee=tee, quote=quote, event_log=event_log), report_data=ASKED, now=NOW)


def test_the_log_of_this_boot_is_accepted() -> None:
    plain = appraise(log(*BOOT)).measurement
    for padding in (b"\xff" * 64, bytes(12), bytes(1 << 16)):
        assert appraise(log(*BOOT) + padding).measurement == plain


def test_nothing_hides_behind_a_gap_of_zeros() -> None:
    with pytest.raises(MalformedEvidenceError):
        appraise(log(*BOOT) + bytes(64) + event(2, b"rootkit"))


@pytest.mark.parametrize(
    "events",
    [
        BOOT[:3],
        (*BOOT, event(2, b"rootkit")),
        (BOOT[0], BOOT[2], BOOT[1], BOOT[3]),
        (BOOT[0], BOOT[1], event(2, b"other kernel"), BOOT[3]),
        (BOOT[0], BOOT[1], event(3, b"kernel"), BOOT[3]),
        (),
    ],
    ids=["cut short", "extended", "reordered", "replaced", "moved", "emptied"],
)
def test_a_log_of_another_boot_is_refused(events: tuple[bytes, ...]) -> None:
    with pytest.raises(MeasurementError, match="RTMR"):
        appraise(log(*events))


@pytest.mark.parametrize(
    "broken",
    [
        log(*BOOT)[:-3],
        log(*BOOT) + struct.pack("<III", 9, 9, 1),
        log(event(5, b"no such register")),
        log(*[event(1, b"")] * (MAX_EVENTS + 1)),
        log(struct.pack("<IIIH", 1, 0xD, 1, 0x0C) + bytes(48) + b"\xff\xff\xff\x7f"),
        b"x",
    ],
    ids=["cut", "half an event", "register", "bomb", "length", "no log"],
)
def test_a_malformed_log_is_refused_before_it_takes_time_or_memory(broken: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        appraise(broken)


def test_an_enclave_has_no_event_log_to_show() -> None:
    quote = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=ASKED)
    with pytest.raises(MalformedEvidenceError, match="event_log"):
        appraise(log(*BOOT), tee="sgx", quote=quote)
