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


@given(
    st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=20), st.integers(-9, 9), st.booleans())),
    st.lists(st.text(max_size=10), max_size=3),
    st.datetimes(min_value=MOMENT.replace(tzinfo=None), timezones=st.just(UTC)),
)
def test_form_filled_in_is_the_entry_written_anew(facts, reasons, time):
    blanks = {"expires": f"{time:%FT%TZ}", "key": "sha384:" + "0" * 96}
    facts = {**facts, "expires": "", "key": ""}
    form = Entry(kind=EntryKind.GRANT, time=datetime(2000, 1, 1, tzinfo=UTC), facts=facts, reasons=tuple(reasons)).form(
        *blanks
    )
    anew = Entry(kind=EntryKind.GRANT, time=time, facts={**facts, **blanks}, reasons=tuple(reasons))
    assert form.fill(blanks, time=time) == anew.encode()


@pytest.mark.parametrize("text", ['"', "a\nb", "\\", "ü", "x" * 129, '","simulated":false,"x":"'])
def test_form_takes_no_text_that_could_change_the_rest_of_the_entry(text):
    form = Entry(kind=EntryKind.GRANT, time=datetime(2000, 1, 1, tzinfo=UTC), facts={}).form("expires")
    with pytest.raises(EntryError, match="plain text"):
        form.fill({"expires": text}, time=datetime(2000, 1, 1, tzinfo=UTC))


def test_form_says_whether_every_entry_it_makes_fits_a_bundle():
    small = Entry(kind=EntryKind.GRANT, time=datetime(2000, 1, 1, tzinfo=UTC), facts={"x": "a" * 60_000})
    large = Entry(kind=EntryKind.GRANT, time=datetime(2000, 1, 1, tzinfo=UTC), facts={"x": "a" * 65_500})
    assert small.form("expires").fits
    assert not large.form("expires").fits
