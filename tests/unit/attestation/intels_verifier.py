"""Ask Intel's own quote verification library, as an oracle; it knows SGX alone, and does not judge debug."""

import json
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.evidence import parse_quote
from strongroom.attestation.evidence.pck import parse_pck_chain

qvl = pytest.importorskip("sgx_dcap_quote_verify")

STATUSES = {
    "STATUS_OK": "UpToDate",
    "STATUS_TCB_SW_HARDENING_NEEDED": "SWHardeningNeeded",
    "STATUS_TCB_CONFIGURATION_NEEDED": "ConfigurationNeeded",
    "STATUS_TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED": "ConfigurationAndSWHardeningNeeded",
    "STATUS_TCB_OUT_OF_DATE": "OutOfDate",
    "STATUS_TCB_OUT_OF_DATE_CONFIGURATION_NEEDED": "OutOfDateConfigurationNeeded",
}


def ask(quote: bytes, collateral: str, *, root_der: bytes, now: datetime) -> str:
    """Return the TCB status that Intel's library gives, or the names of everything it objects to."""
    parsed = parse_quote(quote)
    chain = [
        one.public_bytes(Encoding.PEM).decode() for one in parse_pck_chain(parsed.signature.pck_chain).certificates
    ]
    members = json.loads(collateral)

    def crl(name: str) -> str:
        return x509.load_der_x509_crl(bytes.fromhex(members[name])).public_bytes(Encoding.PEM).decode()

    def signed(wrapper: str, name: str) -> str:
        return f'{{"{wrapper}":{members[name]},"signature":"{members[name + "_signature"]}"}}'

    result = qvl.verify(
        x509.load_der_x509_certificate(root_der).public_bytes(Encoding.PEM).decode(),
        chain[0],
        chain[1] + chain[2],
        crl("root_ca_crl"),
        crl("pck_crl"),
        signed("tcbInfo", "tcb_info"),
        members["tcb_info_issuer_chain"],
        quote[: parsed.size],
        signed("enclaveIdentity", "qe_identity"),
        now,
    )
    others = (result.pck_certificate_status, result.tcb_info_status, result.qe_identity_status)
    objections = [one.name for one in others if one.name != "STATUS_OK"]
    if objections or result.quote_status.name not in STATUSES:
        return ", ".join([*objections, result.quote_status.name])
    return STATUSES[result.quote_status.name]
