"""Open and verify what AMD says of one chip: VCEK or VLEK, its authority, its root and the root's CRL (spec §3.13).

Source: AMD, VCEK Certificate and KDS Interface Specification (57230) §3. The roots of Milan, Genoa and Turin are
compiled in; a chain brought by anybody is used only as far as it leads to one of them. It never fetches.
"""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.evidence.der import INTEGER, DerValue
from strongroom.attestation.evidence.pck import UNREADABLE, common_name
from strongroom.attestation.evidence.snp import SnpTcb
from strongroom.attestation.failures import (
    CertificateError,
    CollateralError,
    MalformedEvidenceError,
    RevokedError,
    StaleCollateralError,
)
from strongroom.digests import digest, to_text

FORMAT: Final = "strongroom/amd-endorsements/v1"
MAX_CHARACTERS: Final = 1 << 20
# SHA-256 of the DER of AMD's self-signed roots, as https://kdsintf.amd.com/vcek/v1/<generation>/cert_chain serves them.
ROOTS: Final = {
    "Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "Turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}
_WITH_FMC: Final = frozenset({"Turin"})
_ARC: Final = "1.3.6.1.4.1.3704.1"
_IA5_STRING, _OCTETS = 0x16, 0x04
_HWID_BYTES, _HWID_BYTES_WITH_FMC = 64, 8
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_KEYS: Final = {"SEV-VCEK": "VCEK", "SEV-VLEK": "VLEK"}
_AUTHORITY: Final = {"VCEK": "SEV-", "VLEK": "SEV-VLEK-"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AmdEndorsements:
    """Certificates (the chip's own first, if any) and the root's CRL, opened but not yet verified.

    ``crl`` is None where the collateral has none: then nothing is known about revocation, and the claims say so.
    """

    certificates: tuple[x509.Certificate, ...]
    crl: x509.CertificateRevocationList | None
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EndorsedKey:
    """The chip's verified key and what AMD wrote beside it.

    ``kind``: VCEK (one chip) or VLEK (one cloud provider). ``tcb``: the firmware it was derived for. ``hwid``: the chip
    id (8 bytes on Turin, 64 before), empty in a VLEK. ``csp``: the provider's name, empty in a VCEK. ``crl_number`` and
    ``crl_issued`` are of the CRL that was consulted; None where there was none.
    """

    kind: str
    generation: str
    key: ec.EllipticCurvePublicKey = field(repr=False)
    tcb: SnpTcb
    hwid: bytes
    csp: str
    expires: datetime
    crl_number: int | None
    crl_issued: datetime | None


@lru_cache(maxsize=64)
def parse_amd_endorsements(text: str) -> AmdEndorsements:
    """Return the endorsements in JSON (``strongroom/amd-endorsements/v1``), or in PEM alone; raise CollateralError."""
    if len(text) > MAX_CHARACTERS:
        raise CollateralError(f"endorsements have {len(text)} characters, at most {MAX_CHARACTERS} expected")
    if not text.strip():
        return AmdEndorsements(certificates=(), crl=None, digest=_digest((), None))
    if (
        not text.lstrip().startswith("{") and "-----BEGIN CERTIFICATE" in text
    ):  # with words around, as openssl writes them
        certificates = _load_pem(text)
        return AmdEndorsements(certificates=certificates, crl=None, digest=_digest(certificates, None))
    try:
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise CollateralError(
                "collateral is not AMD's, expected VCEK or VLEK in PEM, or endorsements in JSON",
                hint=f'JSON has "format": "{FORMAT}", "certificates" in PEM and "crl" in base64 DER',
            )
        certificates = _load_pem(_text(body, "certificates"))
        encoded = _text(body, "crl") if body.get("crl") else ""
        crl = _load_crl(base64.b64decode(encoded, validate=True)) if encoded else None
    except (*UNREADABLE, RecursionError) as error:
        raise CollateralError("endorsements are not JSON with certificates in PEM and a CRL in base64 DER") from error
    return AmdEndorsements(certificates=certificates, crl=crl, digest=_digest(certificates, crl))


def chip_of(endorsements: AmdEndorsements) -> bytes | None:
    """Return the chip that unverified endorsements are for: empty for a VLEK, which names none; None without a key."""
    for one in endorsements.certificates:
        kind = _KEYS.get(common_name(one))
        if kind is not None:
            return _read_hwid(one, _generation_of(one, kind)) if kind == "VCEK" else b""
    return None


def format_amd_endorsements(certificates: str, *, crl: bytes) -> str:
    """Return endorsements in JSON from PEM and a CRL in DER (empty if there is none)."""
    return json.dumps({"format": FORMAT, "certificates": certificates, "crl": base64.b64encode(crl).decode()}, indent=1)


def load_certificate(der: bytes, *, where: str) -> x509.Certificate:
    """Return one certificate in DER or PEM, AMD's serial number 0 included; raise CertificateError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            is_pem = der.lstrip().startswith(b"-----BEGIN")
            certificate = x509.load_pem_x509_certificate(der) if is_pem else x509.load_der_x509_certificate(der)
            _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key())
    except UNREADABLE as error:
        raise CertificateError(f"{where}: not a certificate") from error
    return certificate


def verify_endorsements(
    endorsements: AmdEndorsements,
    *,
    beside: Iterable[bytes] = (),
    anchor: TrustAnchor,
    now: datetime,
    kind: str = "",
    chip: bytes = b"",
    fetch: str = "",
) -> EndorsedKey:
    """Return the chip's key, vouched for by the anchor's chain and current at ``now``.

    ``beside``: certificates in DER that came with the report, used where the endorsements have none of their kind. Of
    several the one of ``kind`` (VCEK or VLEK) for ``chip`` is looked at, if there is one. ``fetch`` says where one that
    is missing is to be had. A genuine anchor stands for AMD's compiled-in roots. Raise CollateralError if there is no
    VCEK or VLEK or no usable CRL, CertificateError if the chain does not hold, RevokedError if its issuer is revoked.
    """
    offered = (*endorsements.certificates, *(load_certificate(der, where="certificate table") for der in beside))
    leaf = _choose(offered, kind=kind, chip=chip)
    if leaf is None:
        raise CollateralError(
            "no VCEK or VLEK, in the collateral or beside the report",
            hint=fetch or "fetch the chip's VCEK from AMD's key distribution service, or ask the cloud for its VLEK",
        )
    kind = _KEYS[common_name(leaf)]
    generation = _generation_of(leaf, kind)
    authority, root = _find_chain(leaf, offered, anchor, generation)
    for whose, certificate in ((f"the {kind}", leaf), ("its authority", authority), ("AMD's root", root)):
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not first <= now <= last:
            raise CertificateError(
                f"{whose} is valid from {first:%FT%TZ} to {last:%FT%TZ}, not at {now:%FT%TZ}",
                hint="check the clock, or fetch a current certificate (a VLEK lives one year)",
            )
    number, issued = _consult_crl(endorsements.crl, authority, root, now)
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CertificateError(f"the {kind} is not a P-384 key")
    return EndorsedKey(
        kind=kind,
        generation=generation,
        key=key,
        tcb=_read_tcb(leaf, generation),
        hwid=_read_hwid(leaf, generation) if kind == "VCEK" else b"",
        csp=_read_csp(leaf) if kind == "VLEK" else "",
        expires=min(leaf.not_valid_after_utc, _next_update(endorsements.crl) if endorsements.crl else _NEVER),
        crl_number=number,
        crl_issued=issued,
    )


def _choose(offered: tuple[x509.Certificate, ...], *, kind: str, chip: bytes) -> x509.Certificate | None:
    """Return the leaf that a report most likely needs; whether it is its own is verified afterwards."""
    leaves = [one for one in offered if common_name(one) in _KEYS]
    fitting = [one for one in leaves if _KEYS[common_name(one)] == kind]
    own = [one for one in fitting if kind == "VLEK" or _names_chip(one, chip)]
    return next(iter((*own, *fitting, *leaves)), None)


def _names_chip(leaf: x509.Certificate, chip: bytes) -> bool:
    try:
        hwid = _read_hwid(leaf, _generation_of(leaf, "VCEK"))
    except (CertificateError, MalformedEvidenceError):
        return False
    return any(hwid) and chip.startswith(hwid)


@lru_cache(maxsize=1)
def compiled_in() -> dict[str, tuple[x509.Certificate, ...]]:
    """Return AMD's root, VCEK authority and VLEK authority of each generation; the roots match :data:`ROOTS`."""
    data = json.loads(resources.files(__package__).joinpath("amd_authorities.json").read_text())
    found = {}
    for generation, expected in ROOTS.items():
        ark = base64.b64decode(data[generation]["ark"])
        if hashlib.sha256(ark).hexdigest() != expected:
            raise CertificateError(f"amd_authorities.json does not hold AMD's root of {generation}")
        found[generation] = tuple(
            load_certificate(base64.b64decode(data[generation][name]), where=name) for name in ("ark", "ask", "asvk")
        )
    return found


def _find_chain(
    leaf: x509.Certificate, offered: tuple[x509.Certificate, ...], anchor: TrustAnchor, generation: str
) -> tuple[x509.Certificate, x509.Certificate]:
    """Return the authority that issued ``leaf`` and the root that issued it."""
    if anchor.simulated:
        root = load_certificate(anchor.root_der, where="trust anchor")
        authorities = offered
    else:
        root, *known = compiled_in()[generation]
        authorities = (*known, *offered)
    named = [one for one in authorities if one.subject == leaf.issuer]
    authority = next((one for one in named if _issued(one, root) and _issued(leaf, one)), None)
    if authority is None or not _issued(root, root):
        raise CertificateError(
            f"the chain of {common_name(leaf)!r} does not lead to the trust anchor {common_name(root)!r}: each "
            "certificate must be signed by the next",
            hint="the certificate was changed, is another vendor's, or its authority is missing from the collateral",
        )
    return authority, root


def _generation_of(leaf: x509.Certificate, kind: str) -> str:
    names = leaf.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    issuer = str(names[0].value) if len(names) == 1 else ""
    prefix = _AUTHORITY[kind]
    generation = issuer.removeprefix(prefix)
    if not issuer.startswith(prefix) or generation not in ROOTS:
        raise CertificateError(
            f"the {kind} is issued by {issuer!r}, expected {prefix}Milan, {prefix}Genoa or {prefix}Turin",
            hint="only these processor generations run SEV-SNP guests that Strongroom knows",
        )
    return generation


def _consult_crl(
    crl: x509.CertificateRevocationList | None, authority: x509.Certificate, root: x509.Certificate, now: datetime
) -> tuple[int | None, datetime | None]:
    if crl is None:
        return None, None
    key = root.public_key()
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        signed = crl.issuer == root.subject and crl.is_signature_valid(key)  # type: ignore[arg-type]  # an RSA key
    except UNREADABLE as error:
        raise CollateralError("the CRL is not a numbered list that AMD's root could have signed") from error
    if not signed:
        raise CollateralError(
            f"the CRL is by {crl.issuer.rfc4514_string()!r}, expected the root of this chip's generation",
            hint="fetch https://kdsintf.amd.com/vcek/v1/<generation>/crl",
        )
    if not crl.last_update_utc <= now <= _next_update(crl):
        raise StaleCollateralError(
            f"the CRL is valid from {crl.last_update_utc:%FT%TZ} to {_next_update(crl):%FT%TZ}, not at {now:%FT%TZ}",
            hint="fetch the current CRL, or check the clock",
        )
    if crl.get_revoked_certificate_by_serial_number(authority.serial_number) is not None:
        raise RevokedError(
            f"{common_name(authority)!r} (serial number {authority.serial_number:x}) is revoked by AMD's root",
            hint="AMD withdrew the authority of this whole generation; nothing it signed can be accepted any more",
        )
    return number, crl.last_update_utc


def _next_update(crl: x509.CertificateRevocationList) -> datetime:
    if crl.next_update_utc is None:
        raise CollateralError("the CRL names no next update, so that it would never expire")
    return crl.next_update_utc.astimezone(UTC)


def _read_tcb(leaf: x509.Certificate, generation: str) -> SnpTcb:
    return SnpTcb(
        bootloader=_read_number(leaf, "3.1"),
        tee=_read_number(leaf, "3.2"),
        snp=_read_number(leaf, "3.3"),
        microcode=_read_number(leaf, "3.8"),
        fmc=_read_number(leaf, "3.9") if generation in _WITH_FMC else 0,
    )


def with_fmc(generation: str) -> bool:
    """Say whether TCB_VERSION of this generation has FMC in its first byte."""
    return generation in _WITH_FMC


def _read_number(leaf: x509.Certificate, arc: str) -> int:
    return _decode(_extension(leaf, arc), arc).integer(tag=INTEGER, most=255)


def _read_hwid(leaf: x509.Certificate, generation: str) -> bytes:
    """Return the chip id, which AMD writes bare; an OCTET STRING, as in its specification, is read too."""
    value = _extension(leaf, "4")
    length = _HWID_BYTES_WITH_FMC if generation in _WITH_FMC else _HWID_BYTES
    found = value if len(value) == length else _decode(value, "4").expect(_OCTETS).content
    if len(found) != length:
        raise CertificateError(f"the chip's certificate names a chip of {len(found)} bytes, {generation} has {length}")
    return found


def _read_csp(leaf: x509.Certificate) -> str:
    return _decode(_extension(leaf, "5"), "5").expect(_IA5_STRING).content.decode("ascii", "replace")


def _decode(value: bytes, arc: str) -> DerValue:
    try:
        return DerValue.parse(value, where=f"extension {_ARC}.{arc}")
    except MalformedEvidenceError as error:
        raise CertificateError(f"the chip's certificate: {error.message}") from error


def _extension(leaf: x509.Certificate, arc: str) -> bytes:
    try:
        value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(f"{_ARC}.{arc}")).value
    except x509.ExtensionNotFound as error:
        raise CertificateError(f"the chip's certificate has no extension {_ARC}.{arc}") from error
    if not isinstance(value, x509.UnrecognizedExtension):
        raise CertificateError(f"the chip's certificate has another meaning for {_ARC}.{arc}")
    return value.value


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _load_pem(text: str) -> tuple[x509.Certificate, ...]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            loaded = x509.load_pem_x509_certificates(text.encode())
    except UNREADABLE as error:
        raise CollateralError("endorsements: not certificates in PEM") from error
    return tuple(load_certificate(one.public_bytes(Encoding.DER), where="endorsements") for one in loaded)


def _load_crl(der: bytes) -> x509.CertificateRevocationList:
    """Return a CRL, every part of which was opened once: pyca/cryptography opens them lazily, and may fail then."""
    crl = x509.load_der_x509_crl(der)
    _ = (crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.extensions, [one.serial_number for one in crl])
    return crl


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise CollateralError(f"endorsements have no {name}, expected a text")
    return value


def _digest(certificates: tuple[x509.Certificate, ...], crl: x509.CertificateRevocationList | None) -> str:
    parts = [one.public_bytes(Encoding.DER) for one in certificates]
    parts.append(b"" if crl is None else crl.public_bytes(Encoding.DER))
    return to_text(digest("strongroom/amd-endorsements/v1", *parts))
