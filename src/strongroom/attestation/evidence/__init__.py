"""Evidence as TEEs encode it: carried by :class:`Evidence`, opened by :func:`parse_quote` (spec/4-release.md §3.1)."""

from strongroom.attestation.evidence.carriage import Evidence, TeeName
from strongroom.attestation.evidence.quote import (
    Quote,
    SgxQuote,
    TdxQuote,
    parse_quote,
    sgx_measurement,
    tdx_measurement,
)
from strongroom.attestation.evidence.report import EnclaveReport, TdReport

__all__ = [
    "EnclaveReport",
    "Evidence",
    "Quote",
    "SgxQuote",
    "TdReport",
    "TdxQuote",
    "TeeName",
    "parse_quote",
    "sgx_measurement",
    "tdx_measurement",
]
