"""Encode the SGX extension of a PCK certificate (OID 1.2.840.113741.1.13.1) in DER.

Source: Intel, SGX PCK Certificate and CRL Profile, §1.3.5. Only what the simulated vendor issues; it parses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

SGX_EXTENSION_OID = "1.2.840.113741.1.13.1"

_INTEGER, _OCTETS, _OID, _ENUMERATED, _BOOLEAN, _SEQUENCE = 0x02, 0x04, 0x06, 0x0A, 0x01, 0x30


def encode_sgx_extension(
    *, ppid: bytes, component_svns: Sequence[int], pce_svn: int, pce_id: bytes, fmspc: bytes, instance_id: bytes
) -> bytes:
    """Return the extension value of a platform-CA leaf: PPID 16, 16 SVNs, PCEID 2, FMSPC 6, instance id 16 bytes."""
    tcb = [_pair(f"2.{index}", _integer(svn)) for index, svn in enumerate(component_svns, start=1)]
    tcb.append(_pair("2.17", _integer(pce_svn)))
    tcb.append(_pair("2.18", _tlv(_OCTETS, bytes(component_svns))))
    configuration = [_pair(f"7.{index}", _tlv(_BOOLEAN, b"\x00")) for index in (1, 2, 3)]  # dynamic, cached keys, SMT
    return _sequence(
        _pair("1", _tlv(_OCTETS, ppid)),
        _pair("2", _sequence(*tcb)),
        _pair("3", _tlv(_OCTETS, pce_id)),
        _pair("4", _tlv(_OCTETS, fmspc)),
        _pair("5", _tlv(_ENUMERATED, b"\x00")),  # SGX type: standard
        _pair("6", _tlv(_OCTETS, instance_id)),
        _pair("7", _sequence(*configuration)),
    )


def _pair(suffix: str, value: bytes) -> bytes:
    return _sequence(_oid(f"{SGX_EXTENSION_OID}.{suffix}"), value)


def _sequence(*items: bytes) -> bytes:
    return _tlv(_SEQUENCE, b"".join(items))


def _integer(value: int) -> bytes:
    return _tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    body = bytearray([first * 40 + second])
    for arc in rest:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | (arc & 0x7F))
        body += bytes(reversed(groups))
    return _tlv(_OID, bytes(body))


def _tlv(tag: int, body: bytes) -> bytes:
    if len(body) < 0x80:  # noqa: PLR2004  DER short form
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body
