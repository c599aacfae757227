"""Be the kernel's /dev/sev-guest and AMD's firmware behind it: what MSG_KEY_REQ answers, and when it refuses.

The rules, their order and what is mixed in are those of AMD's published firmware (AMD-ASPFW, sev_mcmd.c,
SNP_MSG_KEY_REQ) and of Linux, drivers/virt/coco/sev-guest; only the chip's secret and the derivation are stand-ins.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import hmac
import struct
from dataclasses import dataclass, field

FIELDS = ("policy", "image_id", "family_id", "measurement", "guest_svn")
MBZ_OF_TCB = slice(2, 6)  # Milan and Genoa


@dataclass
class SevGuestDevice:
    """One guest on one chip; ``committed`` is the firmware's version, 8 bytes as TCB_VERSION has them."""

    chip: bytes = b"chip one"
    committed: bytes = bytes((4, 0, 0, 0, 0, 0, 24, 219))
    measurement: bytes = b"M" * 48
    policy: int = 0x30000
    image_id: bytes = bytes(16)
    family_id: bytes = bytes(16)
    host_data: bytes = b"H" * 32
    guest_svn: int = 1
    vmpck: int = 0
    mask_chip_key: bool = False
    vcek_disabled: bool = False
    vlek: bytes = b""
    knows_vleks: bool = True
    error: int = 0
    asked: list[bytes] = field(default_factory=list)

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Do as the kernel does: read the request from the caller's memory, and write the answer there."""
        if self.error:
            raise OSError(self.error, "the firmware did not answer")
        size, kind, number = (request >> 16) & 0x3FFF, (request >> 8) & 0xFF, request & 0xFF
        assert (request >> 30, size, chr(kind), number) == (3, 32, "S", 1)
        assert len(argument) == size
        version, request_at, response_at, _ = struct.unpack("<B7xQQQ", argument)
        if version == 0:
            raise OSError(errno.EINVAL, "Invalid argument")
        asked = ctypes.string_at(request_at, 32)
        self.asked.append(asked)
        status, key = self.derive(asked)
        ctypes.memmove(response_at, struct.pack("<I28x32s", status, key), 64)
        argument[24:] = bytes(8)

    def derive(self, asked: bytes) -> tuple[int, bytes]:
        """Return MSG_KEY_RSP's status and key."""
        selection, reserved, fields, vmpl, svn, tcb = struct.unpack("<IIQII8s", asked)
        root, key_selection, unknown = selection & 1, selection >> 1 & 3, selection >> 3
        if unknown or reserved or (key_selection and not self.knows_vleks):
            return 0x16, b""
        withheld = self.mask_chip_key or key_selection == 3 or (key_selection == 1 and self.vcek_disabled)
        if root == 0 and (withheld or (key_selection == 2 and not self.vlek)):
            return 0x27, b""
        if vmpl < self.vmpck or fields >> 6:
            return 0x16, b""
        mixed = [selection.to_bytes(4), vmpl.to_bytes(4), fields.to_bytes(8), self.host_data]
        chip_key = self.chip_key(self.committed)
        if fields >> 5 & 1:
            newer = any(wanted > has for wanted, has in zip(tcb, self.committed, strict=True))
            if newer or any(tcb[MBZ_OF_TCB]):
                return 0x16, b""
            chip_key = self.chip_key(tcb)
            mixed.append(tcb)
        if fields >> 4 & 1 and svn > self.guest_svn:
            return 0x16, b""
        for bit, name in enumerate(FIELDS):
            value = svn if name == "guest_svn" else getattr(self, name)
            mixed.append((value if isinstance(value, bytes) else value.to_bytes(8)) if fields >> bit & 1 else b"")
        use_vlek = key_selection == 2 or (key_selection == 0 and self.vlek)
        key = self.vlek if use_vlek else chip_key
        return 0, hmac.digest(key, b"gmsg-keyreq" + b"|".join(mixed), "sha256")

    def chip_key(self, tcb: bytes) -> bytes:
        """Return the chip's key for a version; firmware can go down the chain of hashes from its own, never up."""
        key = hashlib.sha384(self.chip).digest()
        for component in tcb:
            for _ in range(256 - component):
                key = hashlib.sha384(key).digest()
        return key
