"""The key that AMD's firmware derives for one guest on one chip, asked for as the kernel's device wants it."""

from __future__ import annotations

import errno
import struct

import pytest
from amd_firmware import SevGuestDevice
from test_providers_guests import Kernel

from strongroom.attestation.derived_key import SevGuest
from strongroom.attestation.providers import SnpTee
from strongroom.attestation.tee import TeeCapabilityError, TeeDeviceError
from strongroom.errors import StrongroomError

NOW = "04000000000018db"  # boot loader 4, TEE 0, SNP 24, microcode 219, as AmdVendor's reports have it


def guest(**changes) -> SnpTee:
    vmpl = changes.pop("vmpl", 0)
    device = SevGuestDevice(**changes)
    return SnpTee(Kernel(), device=device, collateral=None, vmpl=vmpl, first_pause=0.0001)


def key(**changes) -> bytes:
    return guest(**changes).sealing_key("broker-store", terms=changes.pop("terms", NOW))


def test_the_request_is_laid_out_as_the_firmware_reads_it() -> None:
    device = SevGuestDevice()
    SnpTee(Kernel(), device=device, collateral=None, vmpl=2, first_pause=0.0001).sealing_key("a", terms=NOW)
    (asked,) = device.asked
    assert struct.unpack("<IIQII8s", asked) == (0b010, 0, 0b101111, 2, 0, bytes.fromhex(NOW))


def test_the_terms_are_the_firmwares_committed_version() -> None:
    assert guest().sealing_terms() == NOW


def test_the_same_guest_on_the_same_chip_gets_the_same_key_after_a_restart_and_after_an_update() -> None:
    newer = bytes((5, 0, 0, 0, 0, 0, 25, 220))
    assert len(key()) == 32
    assert key() == key(committed=newer) == key(vlek=b"a provider's key, which other machines share")
    assert guest().sealing_key("other", terms=NOW) != key()


@pytest.mark.parametrize(
    "changes",
    [
        {"measurement": b"N" * 48},
        {"policy": 0xB0000},
        {"image_id": b"i" * 16},
        {"family_id": b"f" * 16},
        {"host_data": b"h" * 32},
        {"chip": b"chip two"},
        {"vmpl": 3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_guest_chip_or_privilege_level_gets_another_key(changes) -> None:
    assert key(**changes) != key()


def test_firmware_that_was_taken_back_does_not_get_the_key() -> None:
    older = bytes((4, 0, 0, 0, 0, 0, 23, 219))
    with pytest.raises(TeeDeviceError, match=f"TCB version {NOW}") as refused:
        key(committed=older)
    assert "older" in refused.value.hint
    assert guest(committed=older).sealing_key("broker-store", terms=older.hex()) != key()


@pytest.mark.parametrize(
    "how", [{"mask_chip_key": True}, {"vcek_disabled": True}, {"vcek_disabled": True, "vlek": b"v"}]
)
def test_where_the_host_keeps_the_chips_key_there_is_no_sealing_key(how) -> None:
    with pytest.raises(TeeCapabilityError, match="VCEK"):
        key(**how)


def test_a_level_more_privileged_than_the_callers_and_old_firmware_are_refused() -> None:
    with pytest.raises(TeeDeviceError, match="VMPL 0"):
        key(vmpck=1)
    with pytest.raises(TeeDeviceError, match="refuses"):
        key(knows_vleks=False)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTTY, errno.EINVAL])
def test_a_broken_line_to_the_firmware_is_an_error_and_never_a_key(code) -> None:
    with pytest.raises(TeeDeviceError, match="derived no key"):
        key(error=code)


@pytest.mark.parametrize("terms", ["", "zz", "04", NOW + "00"])
def test_terms_that_are_no_version_are_refused(terms) -> None:
    with pytest.raises(StrongroomError):
        guest().sealing_key("broker-store", terms=terms)


def test_without_its_device_a_guest_has_no_sealing_key(tmp_path) -> None:
    tee = SnpTee(Kernel(), device=SevGuest(tmp_path / "sev-guest"), collateral=None)
    with pytest.raises(TeeCapabilityError, match="No such file"):
        tee.sealing_key("broker-store", terms=NOW)
    (tmp_path / "sev-guest").touch()
    with pytest.raises(TeeDeviceError, match="derived no key"):
        tee.sealing_key("broker-store", terms=NOW)
