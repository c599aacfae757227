"""REPORTDATA binds evidence to one role, nonce, channel, key pair and job (spec/4-release.md §2)."""

import hashlib
import struct

import pytest

from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.roles import Role
from strongroom.attestation.tiers import TrustTier
from strongroom.errors import UsageError

PARTS = {
    "role": Role.WORKER,
    "nonce": b"n" * 32,
    "exporter": b"e" * 32,
    "own_key": b"o" * 48,
    "peer_key": b"p" * 48,
    "job_digest": b"j" * 48,
}


def test_the_formula_is_the_one_in_the_specification() -> None:
    framed = b"".join(
        struct.pack("<I", len(part)) + part
        for part in (b"worker", b"n" * 32, b"e" * 32, b"o" * 48, b"p" * 48, b"j" * 48)
    )
    assert report_data(**PARTS) == hashlib.sha512(b"strongroom-ra-v1\0" + framed).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"role": Role.DRIVER},
        {"nonce": b"N" * 32},
        {"exporter": b""},
        {"exporter": b"E" * 32},
        {"own_key": b"O" * 48},
        {"peer_key": b""},
        {"own_key": b"p" * 48, "peer_key": b"o" * 48},
        {"job_digest": b""},
    ],
)
def test_every_part_changes_the_value(change: dict) -> None:
    assert report_data(**{**PARTS, **change}) != report_data(**PARTS)


def test_parts_cannot_be_moved_into_each_other() -> None:
    one = report_data(**{**PARTS, "exporter": b"", "peer_key": b"p" * 48, "job_digest": b""})
    other = report_data(**{**PARTS, "exporter": b"", "peer_key": b"", "job_digest": b"p" * 48})
    assert one != other


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b""},
        {"nonce": b"n" * 31},
        {"own_key": b""},
        {"exporter": b"e" * 31},
        {"peer_key": b"p" * 32},
        {"job_digest": b"j" * 32},
        {"role": Role.CLIENT},
    ],
)
def test_there_is_no_binding_without_nonce_or_own_key_or_for_a_part_outside_a_tee(change: dict) -> None:
    with pytest.raises(UsageError):
        report_data(**{**PARTS, **change})


def test_a_bundle_of_keys_has_one_digest_per_order_and_cut() -> None:
    assert key_bundle_digest(b"spki") == hashlib.sha384(b"spki").digest()
    assert len({key_bundle_digest(b"ab", b"c"), key_bundle_digest(b"a", b"bc"), key_bundle_digest(b"c", b"ab")}) == 3
    for empty in ((), (b"",), (b"a", b"")):
        with pytest.raises(UsageError):
            key_bundle_digest(*empty)


def test_roles_and_tiers_are_parsed_strictly() -> None:
    assert Role.parse("egress") is Role.EGRESS
    with pytest.raises(UsageError):
        Role.parse("Driver")
    tiers = [TrustTier.of_claim(value) for value in (0, 2, 31, 32, 95, 96, 127, -1, -2, -32, -33, -96, -97)]
    assert [tier.value[0] for tier in tiers] == list("naawwccnaawwc")
    with pytest.raises(ValueError, match="-128"):
        TrustTier.of_claim(128)
