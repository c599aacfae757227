"""Ask AMD's firmware for a key that only this guest, on this chip and firmware, gets (spec/4-release.md §5.5).

Sources: Linux, include/uapi/linux/sev-guest.h and drivers/virt/coco/sev-guest; AMD 56860 (SEV-SNP firmware ABI), tables
of MSG_KEY_REQ and MSG_KEY_RSP; how each field is mixed in: AMD's published firmware (AMD-ASPFW, sev_mcmd.c).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from strongroom.attestation.tee import TeeCapabilityError, TeeDeviceError
from strongroom.errors import UsageError

SNP_GET_DERIVED_KEY: Final = 0xC0205301  # _IOWR('S', 0x1, struct snp_guest_request_ioctl)
TCB_BYTES: Final = 8
KEY_BYTES: Final = 32

# MSG_KEY_REQ, little endian: bit 0 of the first word is ROOT_KEY_SELECT, bits 1 and 2 are KEY_SEL.
REQUEST: Final = struct.Struct("<IIQIIQ")  # key selection, reserved, GUEST_FIELD_SELECT, VMPL, GUEST_SVN, TCB_VERSION
# MSG_KEY_RSP: a status, 28 reserved bytes, the key.
RESPONSE: Final = struct.Struct("<I28s32s")
# struct snp_guest_request_ioctl: the message's version, two addresses, and what firmware and host say of a failure.
GUEST_REQUEST: Final = struct.Struct("<B7xQQQ")

VCEK_ONLY: Final = 1 << 1
GUEST_POLICY, IMAGE_ID, FAMILY_ID, MEASUREMENT, GUEST_SVN, TCB_VERSION = (1 << bit for bit in range(6))
SELECTED: Final = GUEST_POLICY | IMAGE_ID | FAMILY_ID | MEASUREMENT | TCB_VERSION

INVALID_PARAM, INVALID_KEY = 0x16, 0x27
_MESSAGE_VERSION: Final = 1


class GuestDevice(Protocol):
    """``/dev/sev-guest``, or its emulation."""

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Make one request; ``argument`` is the kernel's structure, read and written in place. Raise OSError."""
        ...


class SevGuest:
    """The kernel's device."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Make one request of the kernel."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, request, argument, True)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """What the key shall depend on beside measurement, guest policy, image and family id, host data and chip.

    ``tcb`` is a TCB_VERSION, 8 bytes as a report has it: the firmware derives the chip's key for that version, which
    older firmware cannot. ``vmpl`` is the caller's privilege level or a lesser (higher) one.
    """

    tcb: bytes
    vmpl: int

    def encode(self) -> bytes:
        """Return MSG_KEY_REQ; the root is the chip's own key alone, never a provider's that other machines share."""
        if len(self.tcb) != TCB_BYTES:
            raise UsageError(f"a TCB version has {TCB_BYTES} bytes, got {len(self.tcb)}")
        return REQUEST.pack(VCEK_ONLY, 0, SELECTED, self.vmpl, 0, int.from_bytes(self.tcb, "little"))


def derive_key(device: GuestDevice, request: KeyRequest) -> bytes:
    """Return the 32 bytes that the firmware derives.

    Raise TeeCapabilityError where the host keeps the chip's key from guests, TeeDeviceError for any other failure.
    """
    asked = (ctypes.c_uint8 * REQUEST.size).from_buffer_copy(request.encode())
    answered = (ctypes.c_uint8 * RESPONSE.size)()
    argument = bytearray(
        GUEST_REQUEST.pack(_MESSAGE_VERSION, ctypes.addressof(asked), ctypes.addressof(answered), (1 << 64) - 1)
    )
    try:
        device.ioctl(SNP_GET_DERIVED_KEY, argument)
        status, _, key = RESPONSE.unpack(bytes(answered))  # the kernel hands a refusal over as an answer
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM):
            raise TeeCapabilityError(
                f"this guest cannot open its device for keys: {error.strerror}",
                hint="give the broker /dev/sev-guest, or let custodians unseal it: --custodian",
            ) from error
        raise TeeDeviceError(
            f"the firmware derived no key: {error.strerror}",
            hint="see the guest's kernel log; a guest whose line to the firmware broke has to be launched anew",
        ) from error
    finally:
        ctypes.memset(answered, 0, RESPONSE.size)
    if status == INVALID_KEY:
        raise TeeCapabilityError(
            "the host keeps the chip's key (VCEK) from this guest",
            hint="ask the operator to clear MASK_CHIP_KEY and VCEK_DIS, or let custodians unseal: --custodian",
        )
    if status == INVALID_PARAM:
        raise TeeDeviceError(
            f"the firmware refuses to derive a key for TCB version {request.tcb.hex()} at VMPL {request.vmpl}",
            hint="its committed version is older than what the store was sealed under, or it is from before "
            "VLEKs (ABI 1.54); update the firmware",
        )
    if status or not any(key):
        raise TeeDeviceError(f"the firmware derived no key: status {status:#x}")
    return bytes(key)
