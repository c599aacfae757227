"""Nitro documents get the verdict they deserve; here under a root of our own."""

from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, Verifier
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.evidence.cbor import parse_cbor
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.errors import EvidenceError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = bytes(range(64))
KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(3)]


def named(value: object) -> str:
    """Name a case the same in every process: what is random stays out of it."""
    return ", ".join(map(str, value)) if isinstance(value, dict) else str(value)[:40]


def certify(subject: int, issuer: int, *, ca: bool, hours: float = 24, path_length: int | None = None):
    def name(index: int) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"simulated nitro {index}")])

    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(KEYS[subject].public_key())
        .serial_number(subject + 1)
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(hours=hours))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        .sign(KEYS[issuer], hashes.SHA384())
        .public_bytes(Encoding.DER)
    )


ROOT = certify(0, 0, ca=True)
ANCHOR = TrustAnchor(root_der=ROOT, simulated=True)


def document(*, signer: int = 2, headers: bytes = b"\xa1\x01\x38\x22", tag: bool = False, **changes: object) -> bytes:
    payload = {
        "module_id": "i-0-enc0",
        "digest": "SHA384",
        "timestamp": int(NOW.timestamp() * 1000),
        "pcrs": {number: (bytes([number + 1]) * 48 if number < 3 else bytes(48)) for number in range(16)},
        "certificate": certify(2, 1, ca=False, hours=3),
        "cabundle": [ROOT, certify(1, 0, ca=True)],
        "public_key": None,
        "user_data": ASKED,
        "nonce": None,
        **changes,
    }
    body = cbor2.dumps(payload)
    r, s = decode_dss_signature(
        KEYS[signer].sign(cbor2.dumps(["Signature1", headers, b"", body]), ec.ECDSA(hashes.SHA384()))
    )
    parts = [headers, {}, body, r.to_bytes(48, "big") + s.to_bytes(48, "big")]
    return cbor2.dumps(cbor2.CBORTag(18, parts) if tag else parts)


def judge(data: bytes, *, anchor: TrustAnchor = ANCHOR, now: datetime = NOW) -> dict:
    return verify_quote(data, collateral="", now=now, anchor=anchor)


@pytest.mark.parametrize("tag", [False, True])
def test_a_sound_document_verifies(tag: bool) -> None:
    facts = judge(document(tag=tag))
    assert (facts["verdict"], facts["simulated"]) == ("verified", True)
    assert facts["claims"]["body"]["pcr1"] == "02" * 48
    assert facts["claims"]["measurement"].startswith("nitro:")


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"signer": 1}, "signature"),
        ({"pcrs": dict.fromkeys(range(16), bytes(48))}, "attributes"),
        ({"pcrs": {0: bytes(48)}}, "format"),
        ({"pcrs": {**dict.fromkeys(range(3), b"x" * 48), 40: b"x" * 48}}, "format"),
        ({"pcrs": dict.fromkeys(range(3), b"x" * 32)}, "format"),
        ({"digest": "SHA256"}, "format"),
        ({"timestamp": 0}, "format"),
        ({"timestamp": True}, "format"),
        ({"module_id": ""}, "format"),
        ({"cabundle": []}, "format"),
        ({"cabundle": [ROOT]}, "certificates"),
        ({"cabundle": [certify(1, 0, ca=True)]}, "certificates"),
        ({"cabundle": [ROOT, certify(1, 0, ca=False)]}, "certificates"),
        ({"cabundle": [ROOT, certify(1, 0, ca=True, hours=-0.5)]}, "certificates"),
        ({"certificate": certify(2, 1, ca=False, hours=-0.5)}, "certificates"),
        ({"certificate": b"\x30\x00"}, "certificates"),
        ({"user_data": b"x" * 2000}, "format"),
        ({"headers": b"\xa1\x01\x26"}, "format"),
    ],
    ids=named,
)
def test_a_document_with_one_thing_wrong_is_rejected_at_its_step(changes: dict, step: str) -> None:
    facts = judge(document(**changes))
    assert (facts["verdict"], facts["step"]) == ("rejected", step)


def test_a_document_under_a_home_made_root_is_never_genuine() -> None:
    assert judge(document(), anchor=INTEL)["step"] == "certificates"


def test_bytes_after_a_document_or_within_are_rejected() -> None:
    sound = document()
    assert judge(sound + b"\0")["step"] == "format"
    for offset in range(0, len(sound), 31):
        flipped = bytearray(sound)
        flipped[offset] ^= 0x04
        assert judge(bytes(flipped))["verdict"] == "rejected", offset


def test_a_verifier_compares_user_data_and_trusts_the_vendor_only_if_its_policy_says_so() -> None:
    class Nothing:
        def collateral(self, quote: bytes) -> str:
            raise AssertionError("a Nitro document needs no collateral")

    def appraise(policy: str, data: bytes = document(), asked: bytes = ASKED):
        verifier = Verifier(ANCHOR, Nothing(), memory=CollateralMemory(), policy=AppraisalPolicy.parse(policy))
        return verifier.appraise(Evidence(tee="nitro", quote=data), report_data=asked, now=NOW)

    trusting = 'statuses = ["Unrated"]\n'
    assert appraise(trusting).tee == "nitro"
    for policy, data, asked, step in (
        ("", document(), ASKED, "tcb"),
        (trusting, document(), bytes(64), "report-data"),
        (trusting, document(user_data=ASKED + b"\0"), ASKED, "report-data"),
        (trusting, document(user_data=None), ASKED, "report-data"),
        (trusting + 'body = {pcr0 = ["00"]}', document(), ASKED, "measurement"),
        (trusting + 'hardware = ["module:other"]', document(), ASKED, "hardware"),
    ):
        with pytest.raises(EvidenceError) as refused:
            appraise(policy, data, asked)
        assert refused.value.step == step


@pytest.mark.parametrize(
    "text",
    ["c48218641901f4", "c5821a7fffffff03", "d82363282b29", "d81c80", "9a7fffffff", "5b7fffffffffffffff", "9f", "ff",
     "a201020103", "a18001", "f97e00", "f5", "5f41004100ff", "81" * 9 + "00", "bf01ff", "a1f600", "62c328", "1c",
     "0000"],
)  # fmt: skip
def test_cbor_beyond_what_a_document_needs_is_refused_before_it_costs_anything(text: str) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_cbor(bytes.fromhex(text), where="test")


def test_the_cbor_that_documents_use_reads_as_a_general_decoder_reads_it() -> None:
    for text in (
        "bf616101616280ff",
        "9f0102ff",
        "a3200118640219012c1b0000000100000000",
        "d28440a0f640",
        "a0",
        "80",
        "f6",
    ):
        data = bytes.fromhex(text)
        general = cbor2.loads(data)
        assert parse_cbor(data, where="test", tag=18) == getattr(general, "value", general)
