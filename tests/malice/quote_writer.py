"""Write what genuine hardware would sign if the workload, its module or its quoting enclave were another."""

from datetime import UTC, datetime

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import (
    SgxFacts,
    TdxFacts,
    quote_sgx,
    quote_tdx,
    sign_quote,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(b"w" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
_SGX_BODY, _TDX_BODY, _FRAMED_BODY = 48, 48, 54
_SIGNED = {3: 432, 4: 632, 5: 702}


def collateral_of(tee: str) -> str:
    """Return the simulated vendor's collateral for one kind of TEE."""
    return VENDOR.collateral(tee, now=NOW)


def write_quote(version: int, changes: dict[int, bytes], *, quoting_enclave: str = "", header: bytes = b"") -> bytes:
    """Return a quote of ``version`` whose body has ``changes`` (by offset in it), signed as genuine hardware signs.

    ``quoting_enclave``: the TEE whose quoting enclave vouches for it, if not its own. ``header`` replaces its start.
    """
    if version == 3:
        plain = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
    else:
        plain = quote_tdx(
            VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=bytes(64), version=version
        )
    signed = bytearray(plain[: _SIGNED[version]])
    start = _FRAMED_BODY if version == 5 else _SGX_BODY
    for offset, value in changes.items():
        signed[start + offset : start + offset + len(value)] = value
    signed[: len(header)] = header
    return sign_quote(VENDOR, quoting_enclave or ("sgx" if version == 3 else "tdx"), bytes(signed))
