"""Whatever stands on the wire is a record or an error of ours; what was sent arrives, and nothing else ever does."""

from __future__ import annotations

import socket
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.attestation.record_line import RecordLine
from strongroom.attestation.records import (
    HEAD_BYTES,
    MOST_BYTES,
    OVERHEAD,
    SECRET_BYTES,
    TAG_BYTES,
    Head,
    Kind,
    Opener,
    RecordError,
    Sealer,
    Traffic,
)
from strongroom.attestation.secure_line import Deadline

SECRET = bytes(range(SECRET_BYTES))
PARTS = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5)


@given(st.binary(max_size=20) | st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES))
def test_any_bytes_are_a_head_in_its_one_encoding_or_a_record_error(data):
    try:
        head = Head.parse(data)
    except RecordError:
        return
    assert head.encode() == data
    assert head.size <= MOST_BYTES
    assert (head.size == 0) == (head.kind is Kind.END)


@given(st.sampled_from(Kind), st.integers(1, MOST_BYTES), st.integers(0, (1 << 64) - 1))
def test_every_head_comes_back(kind, size, number):
    head = Head(kind, size if kind is Kind.DATA else 0, number)
    assert Head.parse(head.encode()) == head


def sealed(parts: list[bytes]) -> bytes:
    sealer, made = Sealer(Traffic(SECRET)), bytearray()
    for part in parts:
        room = bytearray(len(part) + OVERHEAD)
        sealer.seal(Kind.DATA, memoryview(part), memoryview(room))
        made += room
    return bytes(made)


def opened(stream: bytes) -> bytes:
    """What is read from a stream up to where it ends or is no more what was sealed."""
    opener, view, found = Opener(Traffic(SECRET)), memoryview(stream), bytearray()
    while len(view) >= HEAD_BYTES:
        try:
            head = opener.expect(view[:HEAD_BYTES])
            body = view[HEAD_BYTES : HEAD_BYTES + head.size + TAG_BYTES]
            if len(body) < head.size + TAG_BYTES:
                break
            into = bytearray(head.size)
            opener.open(head, body, memoryview(into))
        except RecordError:
            break
        found += into
        view = view[OVERHEAD + head.size :]
    return bytes(found)


@given(PARTS, st.data())
def test_a_changed_byte_anywhere_ends_the_stream_before_the_record_that_it_is_in(parts, data):
    stream = bytearray(sealed(parts))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= data.draw(st.integers(1, 255))
    before, end = b"", 0
    for part in parts:
        end += len(part) + OVERHEAD
        if end > place:
            break
        before += part
    assert opened(bytes(stream)) == before


@given(PARTS, st.data())
def test_records_in_any_other_order_or_number_give_no_more_than_a_beginning(parts, data):
    cut = [sealed(parts)]
    records, view = [], cut[0]
    for part in parts:
        records.append(view[: len(part) + OVERHEAD])
        view = view[len(part) + OVERHEAD :]
    chosen = data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=8))
    good = 0
    while good < min(len(chosen), len(parts)) and chosen[good] == good:
        good += 1
    assert opened(b"".join(records[index] for index in chosen)) == b"".join(parts[:good])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1_500_000)), min_size=1, max_size=4),
    st.lists(st.integers(1, 700_000), min_size=1, max_size=8),
)
def test_what_is_sent_in_any_pieces_arrives_in_any_others(sent, asked):
    left, right = socket.socketpair()
    secret = bytes(reversed(SECRET))
    there = RecordLine(left, outgoing=Traffic(SECRET), incoming=Traffic(secret))
    here = RecordLine(right, outgoing=Traffic(secret), incoming=Traffic(SECRET))
    whole = b"".join(bytes([1]) * head + bytes([2, 3]) * (size // 2) for head, size in sent)

    def send() -> None:
        for head, size in sent:
            there.send(memoryview(bytes([2, 3]) * (size // 2)), Deadline(20), head=bytes([1]) * head)

    sending = threading.Thread(target=send)
    sending.start()
    got, wanted = bytearray(), iter(asked * (len(whole) + 1))
    while len(got) < len(whole):
        piece = bytearray(min(next(wanted), len(whole) - len(got)))
        here.receive_into(memoryview(piece), Deadline(20))
        got += piece
    sending.join()
    assert got == whole
    there.close()
    here.close()
