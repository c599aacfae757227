"""A line of records keeps its deadlines, tells an end from a cut, and lets go of whoever waits when it is closed."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from strongroom.attestation.record_line import RecordLine
from strongroom.attestation.records import SECRET_BYTES, CutOffError, Head, Kind, Traffic
from strongroom.attestation.secure_line import Deadline, DeadlineError, LineClosedError

ONE, OTHER = bytes([1]) * SECRET_BYTES, bytes([2]) * SECRET_BYTES


@pytest.fixture
def lines():
    left, right = socket.socketpair()
    made = (
        RecordLine(left, outgoing=Traffic(ONE), incoming=Traffic(OTHER)),
        RecordLine(right, outgoing=Traffic(OTHER), incoming=Traffic(ONE)),
    )
    yield made
    for line in made:
        line.close()


def receive(line: RecordLine, size: int, seconds: float = 10) -> bytes:
    got = bytearray(size)
    line.receive_into(memoryview(got), Deadline(seconds))
    return bytes(got)


def test_both_directions_carry_bytes_at_once(lines):
    data = [memoryview(bytes([number]) * 5_000_000) for number in range(2)]
    senders = [
        threading.Thread(target=line.send, args=(given, Deadline(20))) for line, given in zip(lines, data, strict=True)
    ]
    for sender in senders:
        sender.start()
    assert receive(lines[0], 5_000_000, 20) == data[1]
    assert receive(lines[1], 5_000_000, 20) == data[0]
    for sender in senders:
        sender.join()


def test_a_silent_peer_and_one_that_takes_nothing_are_waited_for_until_the_deadline(lines):
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        lines[1].send(memoryview(bytes(5_000_000)), Deadline(0.3))
    left, right = socket.socketpair()
    line = RecordLine(left, outgoing=Traffic(ONE), incoming=Traffic(OTHER))
    with pytest.raises(DeadlineError):
        receive(line, 1, seconds=0.1)
    line.close()
    right.close()
    assert time.monotonic() - started < 3


def test_after_a_deadline_the_line_is_dead_so_that_no_number_is_used_again(lines):
    with pytest.raises(DeadlineError):
        receive(lines[0], 1, seconds=0.05)
    with pytest.raises(LineClosedError):
        lines[0].send(memoryview(b"x"), Deadline(1))
    with pytest.raises(LineClosedError):
        receive(lines[0], 1)


def test_a_peer_that_drips_is_not_waited_for_longer_than_the_whole_message_may_take():
    left, right = socket.socketpair()
    line = RecordLine(left, outgoing=Traffic(ONE), incoming=Traffic(OTHER))
    over = threading.Event()
    # The beginning of a record of 1,000 bytes: a head, and a body that never comes to its end.
    record = Head(Kind.DATA, 1000, 0).encode() + bytes(1000)
    dripped = (record[place : place + 1] for place in range(len(record)))

    def drip() -> None:
        while not over.wait(0.02):
            right.send(next(dripped))

    threading.Thread(target=drip, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        receive(line, 1000, seconds=0.4)
    assert time.monotonic() - started < 5
    over.set()
    line.close()
    right.close()


def test_an_end_is_said_and_a_cut_is_seen(lines):
    lines[0].send(memoryview(b"last words"), Deadline(1))
    lines[0].close()
    assert receive(lines[1], 10) == b"last words"
    with pytest.raises(LineClosedError, match="the other side closed") as caught:
        receive(lines[1], 1)
    assert not isinstance(caught.value, CutOffError)
    left, right = socket.socketpair()
    line = RecordLine(left, outgoing=Traffic(ONE), incoming=Traffic(OTHER))
    right.close()
    with pytest.raises(CutOffError):
        receive(line, 1)
    line.close()


def test_a_line_that_died_gives_its_descriptor_back_when_it_is_closed():
    left, right = socket.socketpair()
    line = RecordLine(left, outgoing=Traffic(ONE), incoming=Traffic(OTHER))
    with pytest.raises(DeadlineError):
        receive(line, 1, seconds=0.05)
    line.close()
    assert left.fileno() == -1
    right.close()


def test_closing_lets_go_of_a_thread_that_waits(lines):
    threading.Timer(0.1, lines[0].close).start()
    started = time.monotonic()
    with pytest.raises(LineClosedError):
        receive(lines[0], 1, seconds=60)
    assert time.monotonic() - started < 5
    lines[0].close()


def test_bytes_are_sealed_and_opened_where_they_are(lines):
    whole = bytearray(1_000_000)
    threading.Thread(target=lines[0].send, args=(memoryview(bytes([9]) * 600_000), Deadline(10))).start()
    lines[1].receive_into(memoryview(whole)[200_000:800_000], Deadline(10))
    assert whole == bytes(200_000) + bytes([9]) * 600_000 + bytes(200_000)
