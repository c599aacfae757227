"""Bring collateral that other tools saved into the one form that is verified: QuoteCollateralV3 with hex and PEM.

The signed documents stay byte for byte as they are: only what stands around them is unpacked. CRLs and signatures may
be hex, base64, PEM or lists of numbers; chains URL-encoded, as headers carry them; TCB info and QE identity the
service's whole answers, as Intel's own library keeps them. What is not understood is left for verification to refuse.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Final
from urllib.parse import unquote

from strongroom.attestation.collateral import MAX_COLLATERAL_CHARACTERS
from strongroom.attestation.patient_client import CollateralFetchError
from strongroom.attestation.pcs import split_answer

_BINARY: Final = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_CHAINS: Final = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "qe_identity_issuer_chain",
    "pck_certificate_chain",
)
_DOCUMENTS: Final = {"tcb_info": "tcbInfo", "qe_identity": "enclaveIdentity"}
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_PEM: Final = re.compile(r"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)


def normalise_collateral(text: str) -> str:
    """Return collateral in the form that parse_collateral takes; other text as it is."""
    if len(text) > MAX_COLLATERAL_CHARACTERS or not text.lstrip().startswith("{"):
        return text
    try:
        members: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(members, dict) or "tcb_info" not in members:
        return text
    before = dict(members)
    for name, wrapper in _DOCUMENTS.items():
        _unpack_document(members, name, wrapper)
    for name in _BINARY:
        if name in members:
            members[name] = _as_hex(members[name])
    for name in _CHAINS:
        value = members.get(name)
        if isinstance(value, str) and "%20" in value and value.lstrip().startswith("-----BEGIN%20"):
            members[name] = unquote(value)
    return text if members == before else json.dumps(members)


def _unpack_document(members: dict[str, Any], name: str, wrapper: str) -> None:
    """Take a signed document out of the service's answer, exactly as it stands there, with its signature."""
    value = members.get(name)
    if not isinstance(value, str) or f'"{wrapper}"' not in value:
        return
    try:
        body, signature = split_answer(value.encode(), wrapper)
    except CollateralFetchError:
        return
    members[name] = body
    members[f"{name}_signature"] = signature


def _as_hex(value: Any) -> Any:  # noqa: ANN401  whatever stands there
    if isinstance(value, list) and value and all(type(one) is int and 0 <= one <= 255 for one in value):  # noqa: PLR2004
        return bytes(value).hex()
    if not isinstance(value, str):
        return value
    if (digits := _HEX.fullmatch("".join(value.split()))) is not None:
        return digits[1].lower()
    pem = _PEM.search(value)
    encoded = "".join((pem[1] if pem else value).split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).hex()
    except (binascii.Error, ValueError):
        return value
