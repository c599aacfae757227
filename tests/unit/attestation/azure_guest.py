"""Be a guest above Azure's paravisor in tests: an HCL report on a simulated AMD machine, and a vTPM's quote."""

from __future__ import annotations

import base64
import hashlib
import json
import struct

from amd_vendor import AmdVendor
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

PCRS = tuple(hashlib.sha256(b"pcr%d" % number).digest() for number in range(24))
KEY = rsa.generate_private_key(65537, 2048)


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def runtime_data(*, user_data: bytes | None, key: rsa.RSAPrivateKey = KEY) -> bytes:
    numbers = key.public_key().public_numbers()
    body: dict = {"keys": [{"kid": "HCLAkPub", "kty": "RSA", "e": _b64(numbers.e), "n": _b64(numbers.n)}]}
    if user_data is not None:
        body["user-data"] = user_data.hex().upper()
    return json.dumps(body).encode()


def hcl_report(hardware: bytes, data: bytes, *, kind: int = 2) -> bytes:
    header = b"HCLA" + bytes(28)
    return header + hardware + struct.pack("<IIIII", len(data) + 20, 1, kind, 1, len(data)) + data + bytes(100)


def tpm_message(*, nonce: bytes, pcrs=PCRS, magic=b"\xffTCG", kind=0x8018, selection=b"\x03\xff\xff\xff") -> bytes:
    digest = hashlib.sha256(b"".join(pcrs)).digest()
    return (
        magic
        + struct.pack(">H", kind)
        + struct.pack(">H", 2)
        + b"id"
        + struct.pack(">H", len(nonce))
        + nonce
        + bytes(25)
        + struct.pack(">IH", 1, 0x0B)
        + selection
        + struct.pack(">H", 32)
        + digest
    )


def evidence(
    amd: AmdVendor,
    *,
    asked: bytes,
    user_data: bytes | None = None,
    listed=PCRS,
    signer: rsa.RSAPrivateKey = KEY,
    committed: bytes | None = None,
    **message,
) -> bytes:
    data = runtime_data(user_data=asked if user_data is None else user_data)
    report = amd.report(report_data=hashlib.sha256(data if committed is None else committed).digest() + bytes(32))
    text = tpm_message(nonce=asked, **message)
    return json.dumps(
        {
            "version": 2,
            "tpm_quote": {
                "message": text.hex(),
                "signature": signer.sign(text, padding.PKCS1v15(), hashes.SHA256()).hex(),
                "pcrs": [one.hex() for one in listed],
            },
            "hcl_report": base64.urlsafe_b64encode(hcl_report(report, data)).decode(),
            "vcek": base64.b64encode(amd.vcek().public_bytes(Encoding.DER)).decode(),
        }
    ).encode()
