"""Say what a verifier accepts beyond genuineness: the appraisal policy for evidence (spec/4-release.md §3.5-§3.9).

The defaults accept only platforms that are up to date. Pure: claims and a time in, every objection out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

from strongroom.attestation.azure import AzureClaims, describe_azure
from strongroom.attestation.claims import Claims, describe_body
from strongroom.attestation.evidence.quote import SgxQuote, TdxQuote
from strongroom.attestation.evidence.snp import SnpTcb
from strongroom.attestation.failures import (
    AttributesError,
    HardwareError,
    MeasurementError,
    StaleCollateralError,
    TcbError,
)
from strongroom.attestation.genuineness import AnyClaims
from strongroom.attestation.nitro import NitroClaims, describe_nitro
from strongroom.attestation.settings import read_setting
from strongroom.attestation.snp import UNRATED, SnpClaims, describe_snp
from strongroom.attestation.snp_criteria import object_to_guest, rate_firmware
from strongroom.attestation.tcb import TCB_STATUSES
from strongroom.errors import EvidenceError, PolicyError

# SGX ATTRIBUTES.FLAGS (Intel SDM vol. 3D, ATTRIBUTES structure). CET, KSS and AEX-Notify only add protection.
SGX_INIT, SGX_MODE64, SGX_PROVISION_KEY, SGX_EINITTOKEN_KEY = 1 << 0, 1 << 2, 1 << 4, 1 << 5
SGX_HARMLESS = SGX_INIT | SGX_MODE64 | 1 << 6 | 1 << 7 | 1 << 10
# MISCSELECT: EXINFO and CPINFO, which tell the enclave alone of its page faults and control protection faults.
SGX_MISC_HARMLESS = 0b11
# TD ATTRIBUTES (Intel TDX module specification, TD attributes). LASS and SEPT_VE_DISABLE only add protection.
TD_HARMLESS = 1 << 27 | 1 << 28
TD_PROTECTION_KEYS, TD_KEY_LOCKER, TD_PERFMON = 1 << 30, 1 << 31, 1 << 63
# XCR0 and IA32_XSS components: x87, SSE, AVX, AVX-512, PKRU, CET, user interrupts, AMX, APX. Left out: PT, PASID, HDC,
# LBR, HWP, which let something outside the workload trace or steer it.
X87_AND_SSE = 0b11
EXTENDED_STATE = 0xE5AE7


class Everything:
    """The allow-list that admits all; writing it down is a decision, and :data:`EVERYTHING` is the only one."""

    __slots__ = ()

    def __contains__(self, item: str) -> bool:
        return True

    def __repr__(self) -> str:
        return "EVERYTHING"


EVERYTHING: Final = Everything()
STATUSES: Final = (*TCB_STATUSES, UNRATED)
Allowed = frozenset[str] | Everything


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalPolicy:
    """What to accept. An empty set admits nothing; EVERYTHING leaves the question to the caller.

    ``statuses``: TCB statuses. ``advisories``: those tolerated with a status other than UpToDate.
    ``out_of_date_grace``, ``qe_out_of_date_grace``: how old the level of an accepted out-of-date platform, or of its
    quoting enclave, may be. ``reference_values``: publishers' values by name, which admit nothing until
    published_values.fill_in has added what they stand for to ``measurements``. ``hardware``: names as in
    :attr:`Claims.hardware_ids`; any one suffices. ``body``: values accepted in fields of the quote's body, both as
    `strongroom inspect` prints them (mrseam, mrconfigid, mrowner, mrsigner, isvprodid, host_data...). ``body_minimum``:
    the least in fields that are numbers (isvsvn, configsvn, guest_svn), so that a workload known by its signer is not
    rolled back. ``smt``, ``dynamic_platform`` and ``cached_keys`` are true for nearly every multi-package server and
    therefore accepted.

    SEV-SNP: ``snp_minimum`` by processor generation makes a platform UpToDate or OutOfDate, since AMD publishes no
    levels (without one it is Unrated); ``vmpl``: privilege levels accepted; ``unknown_revocation``: accept endorsements
    without a CRL; ``unchecked_memory_aliases``: accept machines whose firmware did not look for aliased memory.
    """

    statuses: frozenset[str] = frozenset({"UpToDate"})
    advisories: Allowed = frozenset()
    denied_advisories: frozenset[str] = frozenset()
    out_of_date_grace: timedelta = timedelta(0)
    qe_out_of_date_grace: timedelta = timedelta(0)
    minimum_evaluation_number: int = 0
    collateral_max_age: timedelta = timedelta(days=30)
    hardware: Allowed = field(default=EVERYTHING)
    measurements: Allowed = field(default=EVERYTHING)
    reference_values: frozenset[str] = frozenset()
    body: Mapping[str, frozenset[str]] = field(default_factory=dict)
    body_minimum: Mapping[str, int] = field(default_factory=dict)
    smt: bool = True
    dynamic_platform: bool = True
    cached_keys: bool = True
    provision_key: bool = False
    protection_keys: bool = True
    key_locker: bool = False
    perfmon: bool = False
    snp_minimum: Mapping[str, SnpTcb] = field(default_factory=dict)
    vmpl: frozenset[int] = frozenset({0})
    unknown_revocation: bool = False
    unchecked_memory_aliases: bool = True

    def __post_init__(self) -> None:
        unknown = self.statuses - set(STATUSES)
        if unknown:
            raise PolicyError(
                f"unknown TCB status {', '.join(sorted(unknown))}",
                hint=f"statuses are {', '.join(STATUSES)}; Revoked is never accepted",
            )

    @classmethod
    def leaving_tcb_to_caller(cls) -> Self:
        """Return a policy that accepts every unrevoked TCB status, for callers that rule on status and advisories."""
        return cls(
            statuses=frozenset(STATUSES),
            advisories=EVERYTHING,
            out_of_date_grace=timedelta.max,
            qe_out_of_date_grace=timedelta.max,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the policy written in TOML; raise PolicyError for an unknown key or a value of the wrong kind.

        Keys are the field names; durations are in days (``out_of_date_grace_days``, ``qe_out_of_date_grace_days``,
        ``collateral_max_age_days``); ``snp_minimum`` is a table per generation.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"the appraisal policy is not TOML: {error}") from error
        return cls(**dict(read_setting(name, value) for name, value in document.items()))

    def rate(self, claims: AnyClaims) -> str:
        """Return the TCB status of a verified platform: Intel's word, or for AMD's firmware this policy's."""
        if isinstance(claims, AzureClaims):
            return self.rate(claims.hardware)
        return rate_firmware(claims, self.snp_minimum) if isinstance(claims, SnpClaims) else claims.tcb_status

    def evaluate(self, claims: AnyClaims, *, now: datetime) -> tuple[EvidenceError, ...]:
        """Return every objection to ``claims``, in the order of the appraisal; none means accepted."""
        return (*self._hardware(claims, now), *self._identity(claims))

    def _hardware(self, claims: AnyClaims, now: datetime) -> tuple[EvidenceError, ...]:
        """Return the objections to everything but who this is."""
        if isinstance(claims, AzureClaims):
            return self._hardware(claims.hardware, now)
        if isinstance(claims, SnpClaims):
            return tuple(object_to_guest(self, claims))
        if isinstance(claims, NitroClaims):
            return () if UNRATED in self.statuses else (_unrated(self.statuses),)
        return (
            *self._collateral(claims, now),
            *self._tcb(claims, now),
            *self._platform(claims),
            *(self._sgx(claims.quote) if isinstance(claims.quote, SgxQuote) else self._tdx(claims.quote)),
        )

    def _collateral(self, claims: Claims, now: datetime) -> list[EvidenceError]:
        objections: list[EvidenceError] = []
        age = now - claims.collateral_issued
        if age > self.collateral_max_age:
            objections.append(
                StaleCollateralError(
                    f"the collateral was issued {age.days} days ago, at most {self.collateral_max_age.days} accepted",
                    hint="fetch current collateral",
                )
            )
        if claims.evaluation_number < self.minimum_evaluation_number:
            objections.append(
                StaleCollateralError(
                    f"the collateral has evaluation number {claims.evaluation_number}, at least "
                    f"{self.minimum_evaluation_number} accepted",
                    hint="fetch the collateral of a later TCB recovery (update=early)",
                )
            )
        return objections

    def _tcb(self, claims: Claims, now: datetime) -> list[EvidenceError]:
        objections: list[EvidenceError] = []
        status = claims.tcb_status
        if status not in self.statuses:
            objections.append(
                TcbError(
                    f"the platform is {status}{_because(claims.advisories)}, accepted: "
                    f"{', '.join(sorted(self.statuses)) or 'none'}",
                    hint=claims.remedy or _REMEDIES.get(status, "update the platform's firmware"),
                )
            )
        elif status != "UpToDate":
            open_advisories = [one for one in claims.advisories if one not in self.advisories]
            if open_advisories:
                objections.append(
                    TcbError(
                        f"the platform is {status} because of {', '.join(open_advisories)}, not accepted by the policy",
                        hint="read the advisories; list those that the workload mitigates in `advisories`",
                    )
                )
            objections += self._grace(claims, now) if status.startswith("OutOfDate") else []
        denied = sorted(set(claims.advisories) & self.denied_advisories)
        if denied:
            objections.append(TcbError(f"advisories {', '.join(denied)} apply, which the policy denies"))
        return objections

    def _grace(self, claims: Claims, now: datetime) -> list[EvidenceError]:
        """Object to a level that is older than its grace; a platform is only excused if its QE alone is behind."""
        objections: list[EvidenceError] = []
        qe_behind = claims.qe_status.startswith("OutOfDate")
        age, qe_age = now - claims.tcb_date, now - claims.qe_tcb_date
        if qe_behind and qe_age > self.qe_out_of_date_grace:
            objections.append(
                TcbError(
                    f"the quoting enclave's level is from {claims.qe_tcb_date:%F}, {qe_age.days} days ago; grace is "
                    f"{self.qe_out_of_date_grace.days} days",
                    hint="update the platform's DCAP packages: they bring the quoting enclave",
                )
            )
        if (not qe_behind or claims.remedy) and age > self.out_of_date_grace:
            objections.append(
                TcbError(
                    f"the platform's TCB is from {claims.tcb_date:%F}, {age.days} days ago; grace is "
                    f"{self.out_of_date_grace.days} days",
                    hint=claims.remedy or "update the platform's firmware",
                )
            )
        return objections

    def _platform(self, claims: Claims) -> list[EvidenceError]:
        platform = claims.platform
        return [
            TcbError(
                f"{what} on this platform, which the policy does not accept", hint=f"set {name} = true to accept it"
            )
            for name, what, has, accepted in (
                ("smt", "hyper-threading is enabled", platform.smt, self.smt),
                ("dynamic_platform", "packages can be added", platform.dynamic_platform, self.dynamic_platform),
                ("cached_keys", "platform keys are cached by the vendor", platform.cached_keys, self.cached_keys),
            )
            if has == "true" and not accepted
        ]

    def _sgx(self, quote: SgxQuote) -> list[EvidenceError]:
        report = quote.report
        allowed = SGX_HARMLESS | (SGX_PROVISION_KEY if self.provision_key else 0)
        return [
            *_require("the enclave's attributes", report.flags, SGX_INIT | SGX_MODE64, allowed, _SGX_HINT),
            *_require("the enclave's XFRM", report.xfrm, X87_AND_SSE, EXTENDED_STATE, _STATE_HINT),
            *_require("the enclave's MISCSELECT", report.miscselect, 0, SGX_MISC_HARMLESS, _MISC_HINT),
            *_require("the report's reserved bytes", int.from_bytes(report.reserved, "little"), 0, 0, _MISC_HINT),
        ]

    def _tdx(self, quote: TdxQuote) -> list[EvidenceError]:
        report = quote.report
        allowed = (
            TD_HARMLESS
            | (TD_PROTECTION_KEYS if self.protection_keys else 0)
            | (TD_KEY_LOCKER if self.key_locker else 0)
            | (TD_PERFMON if self.perfmon else 0)
        )
        return [
            *_require("the trust domain's attributes", report.td_attributes, 1 << 28, allowed, _TD_HINT),
            *_require("the trust domain's XFAM", report.xfam, X87_AND_SSE, EXTENDED_STATE, _STATE_HINT),
        ]

    def _identity(self, claims: AnyClaims) -> list[EvidenceError]:
        objections: list[EvidenceError] = []
        body = _describe(claims) if self.body or self.body_minimum else {}
        objections += [
            MeasurementError(
                f"{name} is {body.get(name, 'absent')}, expected {' or '.join(sorted(values)) or 'nothing'}"
            )
            for name, values in self.body.items()
            if str(body.get(name)) not in values
        ]
        objections += [
            MeasurementError(
                f"{name} is {body.get(name, 'absent')}, at least {least} accepted",
                hint="an older release of the workload was loaded; start the current one",
            )
            for name, least in self.body_minimum.items()
            if not isinstance(body.get(name), int) or body[name] < least
        ]
        if self.reference_values:
            objections.append(
                MeasurementError(
                    f"the reference values {', '.join(sorted(self.reference_values))} were not presented",
                    hint="name the publisher's signed file: --reference FILE",
                )
            )
        elif claims.measurement not in self.measurements:
            objections.append(
                MeasurementError(
                    f"measurement {claims.measurement} is not among the reference values",
                    hint="another build, configuration or program was loaded; compare with `strongroom measure`",
                )
            )
        if not any(name in self.hardware for name in claims.hardware_ids):
            objections.append(
                HardwareError(
                    f"this machine ({', '.join(claims.hardware_ids)}) is not on the hardware allow-list",
                    hint="add it if it is yours; instance ids change when a machine is provisioned again",
                )
            )
        return objections


_SGX_HINT = "an enclave must be initialised, 64-bit, and without the provisioning or launch key"
_MISC_HINT = "the enclave asks for something that is not known to be safe; build it for MISCSELECT EXINFO at most"
_TD_HINT = "the trust domain has a feature the policy does not accept (protection_keys, key_locker, perfmon)"
_STATE_HINT = "start it with the usual extended state: neither tracing (PT, LBR) nor less than x87 and SSE"
_REMEDIES = {
    "SWHardeningNeeded": "accept the status and list the advisories if the workload is hardened against them",
    "ConfigurationNeeded": "change the platform's BIOS settings (hyper-threading, undervolting) as the advisories say",
    "ConfigurationAndSWHardeningNeeded": "change the BIOS settings, and harden the workload, as the advisories say",
    "TDRelaunchAdvised": "restart the trust domain: the TDX module was updated after it was started",
    "TDRelaunchAdvisedConfigurationNeeded": "restart the trust domain, and change the BIOS settings",
}


def _require(what: str, bits: int, required: int, allowed: int, hint: str) -> list[EvidenceError]:
    objections: list[EvidenceError] = []
    if bits & required != required:
        objections.append(AttributesError(f"{what}: got {bits:#x}, expected {required:#x} to be set", hint=hint))
    if bits & ~allowed:
        objections.append(AttributesError(f"{what}: got {bits:#x}, expected none of {bits & ~allowed:#x}", hint=hint))
    return objections


def _describe(claims: AnyClaims) -> dict[str, Any]:
    """Return the fields that `body` may pin."""
    if isinstance(claims, SnpClaims):
        return describe_snp(claims.quote)
    if isinstance(claims, NitroClaims):
        return describe_nitro(claims.quote)
    if isinstance(claims, AzureClaims):
        return {**_describe(claims.hardware), **describe_azure(claims.quote)}
    return describe_body(claims.quote)


def _unrated(accepted: frozenset[str]) -> TcbError:
    return TcbError(
        f"the platform is {UNRATED}: its vendor publishes no levels, accepted: {', '.join(sorted(accepted)) or 'none'}",
        hint=f'list "{UNRATED}" among `statuses` to trust the vendor with it',
    )


def _because(advisories: tuple[str, ...]) -> str:
    return f" ({', '.join(advisories)})" if advisories else ""
