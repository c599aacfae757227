"""Publish reference values as a signed statement, and fill in those that an appraisal policy names (spec/4 §3.20).

A policy names a publisher and a title, ``acme:<fingerprint>/worker``; which measurements that stands for is the
publisher's signed word, until it expires or a higher version replaces it. A name that nobody presents a statement for
admits nothing. (No kept Python library writes CoRIM, so the document is a statement of ours.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

from strongroom.attestation.criteria import AppraisalPolicy, Everything
from strongroom.errors import PolicyError
from strongroom.statements import PartyId, SigningKey, Statement, StatementError, VerifyKey, sign

KIND: Final = "reference-values"
VERSION: Final = 1
MAX_VALUES: Final = 1024
_TITLE: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_MEASUREMENT: Final = re.compile(r"(?:sgx|tdx|snp|azure-snp|azure-tdx|nitro):[0-9a-f]{64,128}")
_FIELDS: Final = frozenset({"publisher", "title", "number", "measurements", "issued", "expires"})
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedValues:
    """What a publisher says measures right; ``number`` grows with every issue of the same title."""

    publisher: PartyId
    title: str
    number: int
    measurements: frozenset[str]
    issued: datetime
    expires: datetime

    @property
    def name(self) -> str:
        """Return what policies name it by."""
        return f"{self.publisher}/{self.title}"

    def sign(self, key: SigningKey) -> Statement:
        """Return the statement; raise StatementError if the key is not the publisher's."""
        if key.party != self.publisher:
            raise StatementError(f"these values are {self.publisher}'s, the key is {key.party}'s")
        payload = {
            "publisher": str(self.publisher),
            "title": self.title,
            "number": self.number,
            "measurements": sorted(self.measurements),
            "issued": f"{self.issued:{_TIME}}",
            "expires": f"{self.expires:{_TIME}}",
        }
        self.read(payload)
        return sign(payload, kind=KIND, version=VERSION, key=key)

    @classmethod
    def open(cls, statement: Statement) -> Self:
        """Return what a statement says, by whoever it says publishes it; raise StatementError if that does not hold."""
        payload = statement.open(kind=KIND, version=VERSION, signer=VerifyKey(statement.signer))
        found = cls.read(payload)
        if found.publisher.fingerprint != statement.party_fingerprint:
            raise StatementError(f"the values are said to be {found.publisher}'s, but another key signed them")
        return found

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Self:
        """Return the values in a payload; raise StatementError for anything else."""
        measurements, number, title = payload.get("measurements"), payload.get("number"), payload.get("title")
        if set(payload) != _FIELDS or not isinstance(title, str) or not _TITLE.fullmatch(title):
            raise StatementError(
                f"reference values have {', '.join(sorted(_FIELDS))}, and a title of a-z, 0-9, - and ."
            )
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise StatementError(f"an issue of reference values has a number from 1, got {number!r}")
        if not isinstance(measurements, list) or not 0 < len(measurements) <= MAX_VALUES:
            raise StatementError(f"reference values are a list of 1 to {MAX_VALUES} measurements")
        for one in measurements:
            if not isinstance(one, str) or not _MEASUREMENT.fullmatch(one):
                raise StatementError(
                    f"not a measurement: {str(one)[:80]!r}", hint="as `strongroom measure` prints them"
                )
        try:
            issued, expires = (
                datetime.strptime(payload[name], _TIME).replace(tzinfo=UTC) for name in ("issued", "expires")
            )
        except (ValueError, TypeError) as error:
            raise StatementError("issued and expires are times such as 2026-01-31T12:00:00Z") from error
        return cls(
            publisher=PartyId.parse(payload["publisher"]),
            title=title,
            number=number,
            measurements=frozenset(measurements),
            issued=issued,
            expires=expires,
        )


def fill_in(policy: AppraisalPolicy, statements: Iterable[Statement], *, now: datetime) -> AppraisalPolicy:
    """Return ``policy`` with the measurements that its ``reference_values`` stand for.

    Of several issues of one name the highest counts. Raise PolicyError for a name without a statement that is good now:
    nothing is left out silently. Statements that the policy does not name are not looked at further.
    """
    found: dict[str, PublishedValues] = {}
    for statement in statements:
        values = PublishedValues.open(statement)
        if values.name not in found or values.number > found[values.name].number:
            found[values.name] = values
    measurements: set[str] = set()
    for name in sorted(policy.reference_values):
        one = found.get(name)
        if one is None:
            raise PolicyError(
                f"the policy names reference values {name!r}, and nobody presented them",
                hint="name the publisher's signed file: --reference FILE",
            )
        if not one.issued <= now < one.expires:
            raise PolicyError(
                f"the reference values {name!r} are good from {one.issued:{_TIME}} to {one.expires:{_TIME}}",
                hint="ask the publisher for its newest issue, or check the clock",
            )
        measurements |= one.measurements
    if not policy.reference_values:
        return policy
    listed = frozenset() if isinstance(policy.measurements, Everything) else policy.measurements
    return replace(policy, measurements=listed | measurements, reference_values=frozenset())
