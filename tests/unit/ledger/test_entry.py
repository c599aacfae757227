"""Entries have exactly one encoding, and nothing else is one."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.ledger.entry import Entry, EntryError, EntryKind

MOMENT = datetime(2027, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
ENTRY = Entry(kind=EntryKind.REFUSAL, time=MOMENT, facts={"job": "a", "columns": ["x", "y"]}, reasons=("no",))


def test_entry_reads_back_as_written():
    again = Entry.decode(ENTRY.encode())
    assert (again.kind, again.time, dict(again.facts), again.reasons) == (
        EntryKind.REFUSAL,
        MOMENT,
        {"job": "a", "columns": ["x", "y"]},
        ("no",),
    )
    assert again.encode() == ENTRY.encode()


def test_entry_is_canonical_json():
    assert ENTRY.encode() == (
        b'{"facts":{"columns":["x","y"],"job":"a"},"kind":"refusal","reasons":["no"],"time":"2027-03-04T05:06:07.000089Z"}'
    )


def test_time_is_written_in_utc_whatever_its_zone():
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=5)))
    assert Entry(kind=EntryKind.START, time=elsewhere, facts={}).encode().endswith(b'05:06:07.000089Z"}')
    with pytest.raises(EntryError, match="without zone"):
        Entry(kind=EntryKind.START, time=MOMENT.replace(tzinfo=None), facts={}).encode()


def test_entry_too_large_for_a_bundle_is_refused():
    with pytest.raises(EntryError, match="65535"):
        Entry(kind=EntryKind.START, time=MOMENT, facts={"text": "x" * 70_000}).encode()
    with pytest.raises(EntryError, match="65535"):
        Entry.decode(b"x" * 70_000)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"[]",
        b"[" * 5000,
        b'{"kind":"start"}',
        ENTRY.encode() + b" ",
        ENTRY.encode().replace(b"refusal", b"invented"),
        ENTRY.encode().replace(b'"no"', b"1"),
        ENTRY.encode().replace(b"000089", b"89"),
        ENTRY.encode().replace(b'"reasons":["no"]', b'"reasons":"no"'),
    ],
)
def test_bytes_that_are_not_exactly_an_entry_are_refused(encoded):
    with pytest.raises(EntryError):
        Entry.decode(encoded)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_parser(encoded):
    try:
        Entry.decode(encoded)
    except EntryError:
        return
    raise AssertionError("random bytes are no entry")
