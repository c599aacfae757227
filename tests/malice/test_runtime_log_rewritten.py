"""The attacker rewrites what a workload's log says it did: an entry dropped, added, moved, changed, or reframed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError
from strongroom.attestation.guests import RuntimeRegister
from strongroom.attestation.runtime_log import FORMAT, RuntimeLog, parse_runtime_log, verify_runtime_log
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.attestation.tee import TeeDeviceError
from strongroom.errors import UsageError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(b"r" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
DONE = (("program-loaded", b"sha384 of a program"), ("input-opened", b"flights/3"), ("input-opened", b"weather/1"))


class Register:
    """RTMR3 as the module keeps it."""

    def __init__(self) -> None:
        self.value = bytes(48)
        self.broken = False

    def extend(self, digest: bytes) -> bytes:
        if self.broken:
            raise TeeDeviceError("cannot extend RTMR3")
        self.value = hashlib.sha384(self.value + digest).digest()
        return self.value


@pytest.fixture
def honest(tmp_path: Path) -> tuple[bytes, bytes]:
    """What a workload recorded, and what its register then holds."""
    register = Register()
    log = RuntimeLog(register, tmp_path / "log")
    for name, content in DONE:
        log.record(name, content)
    return (tmp_path / "log").read_bytes(), register.value


def test_an_honest_log_replays_and_says_what_was_done(honest) -> None:
    log, register = honest
    assert tuple((one.name, one.content) for one in verify_runtime_log(log, register)) == DONE


@pytest.mark.parametrize(
    "entries",
    [
        DONE[:-1],
        DONE[1:],
        (*DONE, DONE[0]),
        (DONE[1], DONE[0], DONE[2]),
        (("program-loaded", b"another program"), *DONE[1:]),
        (("program-loade", b"dsha384 of a program"), *DONE[1:]),
        (),
    ],
)
def test_a_rewritten_log_is_refused(honest, entries) -> None:
    with pytest.raises(MeasurementError, match="replays to"):
        verify_runtime_log(cbor2.dumps([FORMAT, [list(one) for one in entries]]), honest[1])


@pytest.mark.parametrize(
    "body",
    [
        {},
        [FORMAT],
        ["strongroom/runtime-log/v2", []],
        [FORMAT, [["a"]]],
        [FORMAT, [["a", "text"]]],
        [FORMAT, [["", b""]]],
        [FORMAT, [["a", b"", b""]]],
        [FORMAT, [["a", b""]] * 5000],
    ],
)
def test_another_shape_is_refused(body) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_runtime_log(cbor2.dumps(body))


def test_a_verdict_about_a_quote_holds_its_log_against_rtmr3(honest) -> None:
    log, register = honest

    def judge(runtime_log: bytes, rtmr3: bytes = register) -> dict:
        facts = TdxFacts(mr_td=b"T" * 48, rtmrs=(bytes(48), bytes(48), bytes(48), rtmr3))
        quote = quote_tdx(VENDOR, facts, report_data=bytes(64))
        collateral = VENDOR.collateral("tdx", now=NOW)
        return verify_quote(quote, collateral=collateral, now=NOW, anchor=ANCHOR, runtime_log=runtime_log)

    assert judge(log)["runtime_log"][0] == {"name": DONE[0][0], "content": DONE[0][1].hex()}
    assert "runtime_log" not in judge(b"")
    assert (judge(log, bytes(48))["verdict"], judge(log, bytes(48))["step"]) == ("rejected", "measurement")
    assert judge(log[:-1])["step"] == "format"
    enclave = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"G" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
    sgx = VENDOR.collateral("sgx", now=NOW)
    assert verify_quote(enclave, collateral=sgx, now=NOW, anchor=ANCHOR, runtime_log=log)["step"] == "format"


def test_nothing_is_logged_that_was_not_extended(tmp_path: Path) -> None:
    register = Register()
    log = RuntimeLog(register, tmp_path / "log")
    log.record("first", b"")
    before = (tmp_path / "log").read_bytes()
    register.broken = True
    with pytest.raises(TeeDeviceError):
        log.record("second", b"")
    register.broken = False
    for name, content in (("", b""), ("line\nbreak", b""), ("long" * 64, b""), ("big", bytes(1 << 20))):
        with pytest.raises(UsageError):
            log.record(name, content)
    assert (tmp_path / "log").read_bytes() == before
    verify_runtime_log(before, register.value)


def test_the_kernels_own_register_files_take_the_log(tmp_path: Path) -> None:
    """The register of Linux 6.16 is a file; this emulation extends when it is written, as the kernel does."""
    folder = tmp_path / "sys/devices/virtual/misc/tdx_guest/measurements"
    folder.mkdir(parents=True)
    (folder / "rtmr3:sha384").write_bytes(bytes(48))
    register = RuntimeRegister(3, root=tmp_path)
    assert register.read() == bytes(48)
    with pytest.raises(TeeDeviceError, match="not what our extension leads to"):
        RuntimeLog(register, tmp_path / "log").record("first", b"")  # a plain file does not extend
    assert not (tmp_path / "log").exists()
