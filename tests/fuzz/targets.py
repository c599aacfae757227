"""What is fuzzed: every parser that a stranger's bytes reach, each with seeds that a mutation starts from.

A target takes bytes and may raise nothing but Strongroom's own errors; anything else, a hang or unbounded memory is a
finding. ``python tests/fuzz/hunt.py TARGET -max_total_time=3600`` hunts with coverage (atheris, libFuzzer).
"""

from __future__ import annotations

import base64
import json
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "attestation"))

from amd_vendor import AmdVendor, certificate_table
from azure_guest import evidence, hcl_report, runtime_data
from cryptography.hazmat.primitives.serialization import Encoding
from ra_tls_maker import FORMS, make_certificate

from strongroom.attestation.amd_endorsements import parse_amd_endorsements
from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.coco_agent import _open_answer
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.evidence import Evidence, parse_quote
from strongroom.attestation.evidence.azure import parse_azure, parse_hcl_report
from strongroom.attestation.evidence.cbor import parse_cbor
from strongroom.attestation.evidence.der import DerValue
from strongroom.attestation.evidence.event_log import parse_event_log, replay
from strongroom.attestation.evidence.nitro import parse_nitro
from strongroom.attestation.evidence.pck import parse_pck_chain
from strongroom.attestation.evidence.ra_tls import parse_ra_tls
from strongroom.attestation.evidence.scale import unwrap_scale
from strongroom.attestation.evidence.snp import parse_certificate_table, parse_snp_report
from strongroom.attestation.explain import describe_quote
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.firmware import measure_firmware
from strongroom.attestation.reference_values import read_sigstruct
from strongroom.attestation.runtime_log import RuntimeEvent, encode_log, parse_runtime_log
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx
from strongroom.attestation.tokens import TokenService, verify_token
from strongroom.envelope.custody.pkcs11_uri import TokenKey
from strongroom.errors import StrongroomError
from strongroom.parties.evidence_files import read_evidence
from strongroom.parties.inspection import inspect_path

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = bytes(range(64))
VENDOR = Vendor(b"f" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_JWKS = json.dumps({"keys": [{"kid": "a", "kty": "RSA", "n": "AQ" * 170, "e": "AQAB"}]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser, and the inputs that reach deepest into it."""

    feed: Callable[[bytes], object]
    seeds: tuple[bytes, ...]

    def try_one(self, data: bytes) -> bool:
        """Feed ``data``; say whether it was taken, and let anything that is not our own error escape."""
        try:
            self.feed(data)
        except StrongroomError:
            return False
        return True


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def _file(data: bytes) -> object:
    """Show a file as `strongroom inspect` does, and look for evidence in it as `attest verify` does."""
    with tempfile.NamedTemporaryFile(dir=_IN_MEMORY) as file:
        file.write(data)
        file.flush()
        with suppress(StrongroomError):
            read_evidence(Path(file.name))
        return inspect_path(Path(file.name))


def _uncached(parse: Callable[..., object]) -> Callable[..., object]:
    return getattr(parse, "__wrapped__", parse)


def _evidence_json(data: bytes) -> object:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # whoever receives it parses JSON first
        return None
    return Evidence.from_json(value)


def _certificate(data: bytes) -> object:
    return parse_ra_tls(data).binding(ASKED)


def _judge(data: bytes) -> object:
    return verify_quote(data, collateral=_collateral("sgx"), now=NOW, anchor=ANCHOR)


@cache
def _collateral(tee: str) -> str:
    return VENDOR.collateral(tee, now=NOW)


def _event_log() -> bytes:
    head = b"Spec ID Event03\0" + bytes(17)
    event = (1).to_bytes(4, "little") * 3 + (0x0C).to_bytes(2, "little") + bytes(48) + bytes(4)
    return bytes(4) + (3).to_bytes(4, "little") + bytes(20) + len(head).to_bytes(4, "little") + head + event * 3


def _firmware() -> bytes:
    section = struct.pack("<IIQQII", 0, 4096, 0xFFFFF000, 4096, 0, 1)
    metadata = b"TDVF" + struct.pack("<III", 48, 1, 1) + section
    guids = [
        UUID(one).bytes_le for one in ("e47a6535-984a-4798-865e-4685a7bf8ec2", "96b582de-1fb2-45f7-baea-a366c55a082d")
    ]
    table = struct.pack("<IH", len(metadata) + 72, 22) + guids[0] + struct.pack("<H", 40) + guids[1]
    return bytes(range(256)) * 16 + metadata + table + bytes(32)


def _nitro() -> bytes:
    import cbor2

    body = {
        "module_id": "i-0",
        "digest": "SHA384",
        "timestamp": 1,
        "pcrs": {number: bytes(48) for number in range(4)},
        "certificate": b"c",
        "cabundle": [b"r"],
        "public_key": None,
        "user_data": ASKED,
        "nonce": None,
    }
    return cbor2.dumps([b"\xa1\x01\x38\x22", {}, cbor2.dumps(body), bytes(96)])


@cache
def targets() -> Mapping[str, Target]:
    """Return every target by name."""
    amd = AmdVendor("Milan")
    sgx = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=ASKED)
    facts = TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4)
    tdx = tuple(quote_tdx(VENDOR, facts, report_data=ASKED, version=version) for version in (4, 5))
    table = certificate_table([("63da758d-e664-4564-adc5-f4b93be8accd", amd.vcek().public_bytes(Encoding.DER))])
    azure = evidence(amd, asked=ASKED)
    hcl = hcl_report(amd.report(), runtime_data(user_data=ASKED))
    return {
        "quote": Target(feed=parse_quote, seeds=(sgx, *tdx)),
        "pck_chain": Target(feed=_uncached(parse_pck_chain), seeds=(VENDOR.pck_chain,)),
        "der": Target(
            feed=lambda data: DerValue.parse(data, where="fuzz").pairs(),
            seeds=(bytes.fromhex("300a3008060355040602010f"),),
        ),
        "event_log": Target(feed=lambda data: replay(parse_event_log(data)), seeds=(_event_log(),)),
        "evidence_json": Target(
            feed=_evidence_json,
            seeds=(json.dumps(Evidence(tee="sgx", quote=b"q").to_json()).encode(),),
        ),
        "collateral": Target(feed=_text(_uncached(parse_collateral)), seeds=(_collateral("sgx").encode(),)),
        "snp_report": Target(feed=parse_snp_report, seeds=(amd.report(), amd.report(version=5) + table)),
        "certificate_table": Target(feed=parse_certificate_table, seeds=(table,)),
        "amd_endorsements": Target(
            feed=_text(_uncached(parse_amd_endorsements)), seeds=(amd.endorsements(crl=amd.crl(now=NOW)).encode(),)
        ),
        "azure": Target(feed=parse_azure, seeds=(azure,)),
        "hcl_report": Target(feed=parse_hcl_report, seeds=(hcl,)),
        "cbor": Target(
            feed=lambda data: parse_cbor(data, where="fuzz", tag=18), seeds=(_nitro(), b"\xbf\x61a\x9f\x01\xff\xff")
        ),
        "nitro": Target(feed=parse_nitro, seeds=(_nitro(),)),
        "scale": Target(feed=unwrap_scale, seeds=(b"\x00\x03\x81\x12" + amd.report(),)),
        "sigstruct": Target(
            feed=read_sigstruct,
            seeds=(
                bytes.fromhex("06000000E10000000000010000000000") + bytes(8)
                + bytes.fromhex("01010000600000006000000001000000") + bytes(1768),
            ),
        ),
        "firmware": Target(feed=measure_firmware, seeds=(_firmware(),)),
        "runtime_log": Target(
            feed=parse_runtime_log, seeds=(encode_log([RuntimeEvent(name="a", content=b"b")]),)
        ),
        "agent": Target(feed=_open_answer, seeds=(b"\x12\x03\x0a\x01a",)),
        "ra_tls": Target(feed=_certificate, seeds=tuple(make_certificate(form, lambda _: sgx) for form in FORMS)),
        "appraisal_policy": Target(
            feed=_text(AppraisalPolicy.parse), seeds=(b'statuses = ["UpToDate"]\n[snp_minimum.Milan]\nsnp = 3\n',)
        ),
        "token": Target(
            feed=lambda data: verify_token(
                data.decode("latin-1"),
                service=TokenService(kind="maa", issuer="i", keys=_JWKS),
                report_data=ASKED,
                now=NOW,
            ),
            seeds=(b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJpIn0.AAAA",),
        ),
        "token_address": Target(
            feed=_text(TokenKey.parse),
            seeds=(
                b"pkcs11:token=t%20x;object=k;id=%01%FF?module-path=/a.so&pin-source=file:///run/pin",
                b"pkcs11:model=m;manufacturer=n;serial=1;token=t;id=%41;type=secret-key",
            ),
        ),
        "file": Target(
            feed=_file,
            seeds=(
                sgx,
                json.dumps({"outblob": base64.b64encode(amd.report()).decode(), "auxblob": table.hex()}).encode(),
                json.dumps({"a": [azure.decode(), list(sgx)]}).encode(),
                b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJpIn0.AAAA",
                hcl,
                make_certificate(FORMS[0], lambda _: sgx),
                VENDOR.pck_chain,
                f"{sgx.hex()} {tdx[0].hex()}".encode(),
                b'dataset = "a"\n',
            ),
        ),
        "verdict": Target(feed=_judge, seeds=(sgx, *tdx, amd.report(), azure, _nitro())),
        "explanation": Target(feed=describe_quote, seeds=(sgx, tdx[1], amd.report(), azure, _nitro())),
    }  # fmt: skip
