"""One party or digest is written in two ways, by a line break at its end that nobody sees."""

import pytest

from strongroom.digests import DigestError, parse_text
from strongroom.statements import PartyId, StatementError


def test_party_id_with_a_line_break_is_no_party():
    assert PartyId.parse("a:" + "0" * 32).fingerprint == "0" * 32
    with pytest.raises(StatementError):
        PartyId.parse("a:" + "0" * 32 + "\n")


def test_digest_with_a_line_break_is_no_digest():
    assert parse_text("sha256:" + "0" * 64) == bytes(32)
    with pytest.raises(DigestError):
        parse_text("sha256:" + "0" * 64 + "\n")
