"""Say in words what a quote says, field by field, and why one was refused (`strongroom inspect`, `attest explain`).

Nothing shown here is verified unless a verdict is shown with it, and the text says so. It never decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strongroom.attestation.azure import describe_azure
from strongroom.attestation.claims import describe_body
from strongroom.attestation.evidence.azure import AzureEvidence, azure_measurement, looks_like_azure, parse_azure
from strongroom.attestation.evidence.nitro import NitroDocument, looks_like_nitro, parse_nitro
from strongroom.attestation.evidence.pck import parse_pck_chain
from strongroom.attestation.evidence.quote import Quote, SgxQuote, parse_quote
from strongroom.attestation.evidence.snp import SnpReport, looks_like_snp, parse_snp_report
from strongroom.attestation.nitro import describe_nitro
from strongroom.attestation.snp import POLICY_DEBUG, POLICY_MIGRATE_MA, describe_snp, generation_of
from strongroom.errors import EvidenceError

_SGX_FLAGS = {
    0: "INIT",
    1: "DEBUG: the host can read all of its memory",
    2: "MODE64BIT",
    4: "PROVISIONKEY: may derive the provisioning key",
    5: "EINITTOKENKEY: may launch other enclaves",
    6: "CET",
    7: "KSS",
    10: "AEX-NOTIFY",
}
_TD_ATTRIBUTES = {
    0: "DEBUG: the host can read all of its memory",
    27: "LASS",
    28: "SEPT_VE_DISABLE",
    29: "MIGRATABLE: can be moved to another machine",
    30: "PKS",
    31: "KL",
    63: "PERFMON",
}
_EXTENDED_STATE = {
    0: "x87",
    1: "SSE",
    2: "AVX",
    5: "AVX-512",
    6: "AVX-512",
    7: "AVX-512",
    8: "PT",
    9: "PKRU",
    11: "CET",
    12: "CET",
    14: "UINTR",
    15: "LBR",
    17: "AMX",
    18: "AMX",
    19: "APX",
}
_SNP_POLICY = {
    16: "SMT allowed",
    17: "reserved, always one",
    18: "MIGRATE_MA allowed",
    19: "DEBUG allowed",
    20: "SINGLE_SOCKET required",
    21: "CXL allowed",
    22: "AES-256-XTS required",
    23: "RAPL off required",
    24: "ciphertext hiding required",
    25: "page swap disabled",
}
_SNP_PLATFORM = {
    0: "SMT",
    1: "TSME",
    2: "ECC",
    3: "RAPL off",
    4: "ciphertext hiding",
    5: "memory aliases checked",
    7: "TIO",
}
_CERTIFICATION = {
    1: "PPID in plain text, no certificates",
    2: "PPID encrypted with RSA-2048, no certificates",
    3: "PPID encrypted with RSA-3072, no certificates",
    4: "PCK certificate alone",
    5: "PCK certificate chain",
}


def explain_quote(data: bytes) -> dict[str, Any]:
    """Return what the quote or report says of itself, unverified; raise MalformedEvidenceError if it is neither.

    Keys: ``verified`` (always false), ``tee``, ``version``, ``bytes``, ``padding``, ``measurement``, ``body``,
    ``features`` (bit masks in words), ``quoting_enclave``, ``platform``, ``concerns`` (why it may be refused).
    """
    if looks_like_snp(data):
        return _explain_report(parse_snp_report(data), len(data))
    if looks_like_nitro(data):
        return _explain_nitro(parse_nitro(data), len(data))
    if looks_like_azure(data):
        return _explain_azure(parse_azure(data), len(data))
    return explain_parsed(parse_quote(data))


def explain_parsed(quote: Quote) -> dict[str, Any]:
    """Return what a parsed SGX or TDX quote says of itself, with the keys of :func:`explain_quote`."""
    signature = quote.signature
    return {
        "verified": False,
        "tee": quote.tee,
        "version": quote.header.version,
        "bytes": quote.size,
        "padding": quote.padding,
        "measurement": quote.measurement,
        "body": describe_body(quote),
        "features": _features(quote),
        "quoting_enclave": {
            "mrenclave": signature.qe_report.mrenclave.hex(),
            "mrsigner": signature.qe_report.mrsigner.hex(),
            "isvprodid": signature.qe_report.isvprodid,
            "isvsvn": signature.qe_report.isvsvn,
            "certification": _CERTIFICATION.get(
                signature.certification_type, f"type {signature.certification_type}, unknown"
            ),
        },
        "platform": _platform(quote),
        "concerns": _concerns(quote),
    }


def describe_quote(data: bytes) -> str:
    """Return :func:`explain_quote` as text for a person, one field a line."""
    said = explain_quote(data)
    noun = "report" if said["tee"] == "snp" else "quote"
    lines = [
        f"{said['tee'].upper()} {noun}, version {said['version']}, {said['bytes']} bytes"
        + (f" and {said['padding']} of padding" if said["padding"] else "")
        + " (not verified: anyone can write this)",
        f"measurement      {said['measurement']}",
        *_section("body", said["body"]),
        *_section("features", said["features"]),
        *_section("quoting enclave", said["quoting_enclave"]),
        *_section("platform", said["platform"]),
    ]
    lines += [f"concern: {concern}" for concern in said["concerns"]]
    return "\n".join(lines)


def _explain_nitro(document: NitroDocument, size: int) -> dict[str, Any]:
    debug = not any(any(document.pcrs[number]) for number in (0, 1, 2))
    return {
        "verified": False,
        "tee": document.tee,
        "version": 1,
        "bytes": size,
        "padding": 0,
        "measurement": document.measurement,
        "body": describe_nitro(document),
        "features": {},
        "quoting_enclave": {"certificates": 1 + len(document.cabundle)},
        "platform": {"module_id": document.module_id},
        "concerns": ["DEBUG: PCR0, PCR1 and PCR2 are zero"] if debug else [],
    }


def _explain_azure(evidence: AzureEvidence, size: int) -> dict[str, Any]:
    inner = explain_quote(evidence.hardware)
    unbound = [] if evidence.report_data else ["nonce and user data differ: the evidence is bound to nobody"]
    measurement = azure_measurement(evidence.tee, inner["measurement"], evidence.tpm.pcrs)
    return {
        **inner,
        "tee": evidence.tee,
        "bytes": size,
        "measurement": measurement,
        "body": {**inner["body"], **describe_azure(evidence)},
        "concerns": [*inner["concerns"], *unbound],
    }


def _explain_report(report: SnpReport, size: int) -> dict[str, Any]:
    generation = "" if report.cpuid is None else generation_of(report.cpuid)
    concerns = [
        text
        for wrong, text in (
            (report.policy & POLICY_DEBUG, "DEBUG is allowed: the host can read all of its memory"),
            (report.policy & POLICY_MIGRATE_MA, "MIGRATE_MA is allowed: a migration agent can move it"),
            (report.vmpl, f"VMPL {report.vmpl}: software at a lower level inside the guest is trusted too"),
            (report.mask_chip_key, "MASK_CHIP_KEY: the report is not signed"),
            (not any(report.report_data), "REPORTDATA is all zero: the report is bound to nobody"),
        )
        if wrong
    ]
    return {
        "verified": False,
        "tee": report.tee,
        "version": report.version,
        "bytes": size,
        "padding": 0,
        "measurement": report.measurement,
        "body": describe_snp(report),
        "features": {
            "policy": _bits(report.policy >> 16 << 16, _SNP_POLICY),
            "platform_info": _bits(report.platform_info, _SNP_PLATFORM),
        },
        "quoting_enclave": {"signed_by": report.signing_key, "certificates": [name for name, _ in report.certificates]},
        "platform": {"generation": generation or "not said by the report", "chip_id": report.chip_id.hex()},
        "concerns": concerns,
    }


def explain_verdict(facts: Mapping[str, Any]) -> str:
    """Return what :func:`facts.verify_quote` found as text for a person: verdict, reason, remedy, policy."""
    lines = []
    if facts["verdict"] == "verified":
        lines.append("verified: the quote is genuine, intact, not revoked and not of a debug workload")
        lines.append(f"measurement      {facts['claims']['measurement']}")
        if "revocation" in facts["claims"]["collateral"]:
            lines.append(f"revocation       {facts['claims']['collateral']['revocation']}")
        lines.append(f"platform status  {', '.join([facts['status'], *facts['advisories']])}")
        lines += _refusal("", "", facts["claims"].get("tcb", {}).get("remedy", ""))[1:]
    else:
        lines += _refusal(f"rejected at step {facts['step']}", facts["reason"], facts["hint"])
    if facts["simulated"]:
        lines.append("simulated: the root given is not a hardware vendor's; this protects nothing")
    if "accepted" in facts and facts["verdict"] == "verified":
        lines.append("accepted by the policy" if facts["accepted"] else "not accepted by the policy:")
        for objection in facts["reasons"]:
            lines += [f"  {line}" for line in _refusal(objection["step"], objection["reason"], objection["hint"])]
    return "\n".join(lines)


def _refusal(step: str, reason: str, hint: str) -> list[str]:
    """Return a refusal as lines: each thing that is behind on one of its own, and what to do."""
    head, _, behind = reason.partition(": ") if " is " in reason and ", needs " in reason else (reason, "", "")
    lines = [f"{step}: {head}", *(f"  {one}" for one in behind.split("; ") if one)]
    if not hint:
        return lines
    what, _, do = hint.rpartition(": ") if ", needs " in hint else ("", "", hint)
    lines += [f"  {one}" for one in what.split("; ") if one and one not in behind]
    return [*lines, f"what to do: {do}"]


def _features(quote: Quote) -> dict[str, list[str]]:
    if isinstance(quote, SgxQuote):
        return {
            "attributes": _bits(quote.report.flags, _SGX_FLAGS),
            "xfrm": _bits(quote.report.xfrm, _EXTENDED_STATE),
        }
    return {
        "td_attributes": _bits(quote.report.td_attributes, _TD_ATTRIBUTES),
        "xfam": _bits(quote.report.xfam, _EXTENDED_STATE),
    }


def _bits(value: int, names: Mapping[int, str]) -> list[str]:
    """Return the names of the bits that are set, each once, in order."""
    return list(dict.fromkeys(names.get(bit, f"bit {bit}") for bit in range(64) if value >> bit & 1))


def _platform(quote: Quote) -> dict[str, Any]:
    """Return what the chain inside the quote says, or why it cannot be read: inspection goes on either way."""
    if not quote.signature.pck_chain:
        return {"chain": "not in the quote; it must come with the collateral"}
    try:
        chain = parse_pck_chain(quote.signature.pck_chain)
    except EvidenceError as error:
        return {"chain": f"unreadable: {error.message}"}
    extension = chain.extension
    return {
        "fmspc": extension.fmspc.hex().upper(),
        "ca": chain.ca,
        "issuer": chain.certificates[-1].subject.rfc4514_string(),
        "ppid": extension.ppid.hex(),
        "platform_instance_id": extension.platform_instance_id.hex(),
        "pcesvn": extension.pcesvn,
        "cpusvn": extension.cpusvn.hex(),
        "smt": extension.smt,
        "dynamic_platform": extension.dynamic_platform,
        "cached_keys": extension.cached_keys,
    }


def _concerns(quote: Quote) -> list[str]:
    concerns = [text for texts in _features(quote).values() for text in texts if ": " in text]
    if not isinstance(quote, SgxQuote):
        if not quote.report.td_attributes >> 28 & 1:
            concerns.append("SEPT_VE_DISABLE is off: the host can inject page faults")
        if any(quote.report.mrservicetd):
            concerns.append("MRSERVICETD is set: a service TD is bound to this one and could migrate it")
    if not any(quote.report_data):
        concerns.append("REPORTDATA is all zero: the quote is bound to nobody")
    return concerns


def _section(title: str, values: Mapping[str, Any]) -> list[str]:
    width = 24
    lines = [f"{title}:"]
    for name, value in values.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        lines.append(f"  {name:<{width}}{text or '-'}")
    return lines
