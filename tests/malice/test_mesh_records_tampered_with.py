"""An attacker on the wire between two workers changes, repeats, drops, reorders, turns back or cuts their records."""

from __future__ import annotations

import time

import pytest
from cryptography.exceptions import InvalidTag
from mesh_world import JOB, mesh_world
from wiretap import tapped

from strongroom.attestation.records import (
    HEAD_BYTES,
    MOST_BYTES,
    MOST_RECORDS,
    OVERHEAD,
    RECORDS_PER_KEY,
    SECRET_BYTES,
    CutOffError,
    Kind,
    Opener,
    RecordError,
    RecordsExhaustedError,
    Sealer,
    Traffic,
)
from strongroom.attestation.secure_line import Deadline, LineClosedError, ProtocolError
from strongroom.testing import connect_as, listen_as
from strongroom.workload.mesh.links import PeerLostError

SIZE = 40_000  # more than what is sent together with its head: two records a message
SECOND = 2  # the head of the second message
_rounds = iter(range(1, 1000))


@pytest.fixture(scope="module")
def world():
    with mesh_world(2) as made:
        yield made


def flipped(record: bytes, place: int) -> bytes:
    changed = bytearray(record)
    changed[place] ^= 1
    return bytes(changed)


def announcing(record: bytes, size: int) -> bytes:
    return record[:4] + size.to_bytes(4, "little") + record[8:]


class Swap:
    """Passes the second message's two records on in the other order."""

    def __init__(self) -> None:
        self._kept = b""

    def __call__(self, number: int, record: bytes) -> list[bytes]:
        if number == SECOND:
            self._kept = record
            return []
        return [record, self._kept] if number == SECOND + 1 else [record]


MOVES = {
    "a bit of the data flipped": lambda n, r: [flipped(r, HEAD_BYTES) if n == SECOND + 1 else r],
    "a bit of the tag flipped": lambda n, r: [flipped(r, len(r) - 1) if n == SECOND else r],
    "a bit of the kind flipped": lambda n, r: [flipped(r, 0) if n == SECOND else r],
    "an empty byte filled": lambda n, r: [flipped(r, 2) if n == SECOND else r],
    "another number": lambda n, r: [flipped(r, 8) if n == SECOND else r],
    "a closing record made of a data record": lambda n, r: [bytes([Kind.END]) + r[1:] if n == SECOND else r],
    "a record of no size": lambda n, r: [announcing(r, 0) if n == SECOND else r],
    "a record shorter than it is": lambda n, r: [announcing(r, 23) if n == SECOND else r],
    "a record over the limit": lambda n, r: [announcing(r, MOST_BYTES + 1) if n == SECOND else r],
    "a record of 4 GiB": lambda n, r: [announcing(r, (1 << 32) - 1) if n == SECOND else r],
    "a record repeated": lambda n, r: [r, r] if n == SECOND - 1 else [r],
    "a record dropped": lambda n, r: [] if n == SECOND else [r],
    "two records in the other order": Swap(),
}


@pytest.mark.parametrize("move", MOVES)
def test_what_came_before_arrives_and_nothing_after(world, move):
    with tapped(world, forth=MOVES[move], number=next(_rounds)) as (called, caller, _):
        for number in range(4):
            caller.post(0, (7, number), memoryview(bytes([number + 1]) * SIZE))
        got = bytearray(SIZE)
        called.receive(1, (7, 0), memoryview(got), deadline=10)
        assert got == b"\1" * SIZE
        with pytest.raises(PeerLostError, match="worker 1 is gone") as caught:
            called.receive(1, (7, 1), memoryview(got), deadline=10)
        assert isinstance(caught.value.__cause__, RecordError)
        with pytest.raises(PeerLostError):
            called.receive(1, (7, 2), memoryview(got), deadline=10)
        assert called.broken


def cut_inside(number: int, record: bytes) -> list[bytes] | None:
    return None if number > SECOND else [record[:-1] if number == SECOND else record]


def cut_between(number: int, record: bytes) -> list[bytes] | None:
    return None if number == SECOND else [record]


@pytest.mark.parametrize("move", [cut_inside, cut_between])
def test_a_stream_that_is_cut_is_no_stream_that_ended(world, move):
    with tapped(world, forth=move, number=next(_rounds)) as (called, caller, _):
        for number in range(2):
            caller.post(0, (7, number), memoryview(bytes(SIZE)))
        called.receive(1, (7, 0), memoryview(bytearray(SIZE)), deadline=10)
        with pytest.raises(PeerLostError, match="was cut off") as caught:
            called.receive(1, (7, 1), memoryview(bytearray(SIZE)), deadline=10)
        assert isinstance(caught.value.__cause__, CutOffError)


def test_an_honest_end_is_told_from_a_cut_and_whoever_fakes_one_needs_the_key(world):
    with tapped(world, number=next(_rounds)) as (called, caller, tap):
        caller.close()
        with pytest.raises(PeerLostError, match="the other side closed the connection"):
            called.receive(1, (7, 0), memoryview(bytearray(1)), deadline=10)
    closing = tap.seen["forth"][-1]
    assert (closing[0], len(closing)) == (Kind.END, OVERHEAD)
    with tapped(world, number=next(_rounds)) as (called, _, tap):
        tap.inject("forth", closing)
        with pytest.raises(PeerLostError, match="not what the other side sealed"):
            called.receive(1, (7, 0), memoryview(bytearray(1)), deadline=10)


def test_a_workers_own_record_turned_back_to_it_is_not_opened(world):
    with tapped(world, back=lambda *_: [], number=next(_rounds)) as (called, _, tap):
        called.post(1, (7, 0), memoryview(b"mine")).wait(10)
        while not tap.seen["back"]:
            time.sleep(0.01)
        tap.inject("forth", tap.seen["back"][0])
        with pytest.raises(PeerLostError, match="not what the other side sealed"):
            called.receive(1, (7, 0), memoryview(bytearray(4)), deadline=10)


def test_a_record_of_an_earlier_connection_of_the_same_workers_is_not_opened_in_a_later_one(world):
    with tapped(world, number=next(_rounds)) as (called, caller, tap):
        caller.post(0, (7, 0), memoryview(b"then"))
        got = bytearray(4)
        called.receive(1, (7, 0), memoryview(got), deadline=10)
        assert got == b"then"
    with tapped(world, number=next(_rounds)) as (called, _, later):
        later.inject("forth", tap.seen["forth"][0])
        with pytest.raises(PeerLostError, match="not what the other side sealed"):
            called.receive(1, (7, 0), memoryview(got), deadline=10)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("mesh", b"1", b"2"), ("mesh", b"1", b"3")),
        (("mesh", b"1"), ("other", b"1")),
        (("mesh", b"ab"), ("mesh", b"a")),
    ],
    ids=["another rank", "another purpose", "other parts"],
)
def test_ends_that_mean_different_things_by_their_connection_cannot_talk(world, theirs, ours):
    """Say, because somebody led a worker's call for one rank or round to where another is expected."""
    with listen_as("worker", platform=world.platform, job_digest=JOB) as listener:
        channel = connect_as(
            "worker", listener.address, platform=world.platform, job_digest=JOB, expected_role="worker"
        )
        caller, called = channel.into_records(*theirs), listener.accept(deadline=10).into_records(*ours)
    caller.send(memoryview(b"hello"), Deadline(10))
    with pytest.raises(RecordError, match="not what the other side sealed"):
        called.receive_into(memoryview(bytearray(5)), Deadline(10))
    caller.close()
    called.close()


def pair() -> tuple[Sealer, Opener]:
    secret = bytes(range(SECRET_BYTES))
    return Sealer(Traffic(secret)), Opener(Traffic(secret))


def test_no_number_is_used_twice_and_the_last_one_ends_the_direction():
    sealer, _ = pair()
    room = memoryview(bytearray(1 + OVERHEAD))
    sealer._number = MOST_RECORDS - 1
    sealer.seal(Kind.DATA, memoryview(b"x"), room)
    for _ in range(2):
        with pytest.raises(RecordsExhaustedError):
            sealer.seal(Kind.DATA, memoryview(b"x"), room)


def test_a_key_is_replaced_long_before_its_limits_and_the_old_one_opens_nothing_more():
    sealer, opener = pair()
    stuck = pair()[1]
    room, plain = memoryview(bytearray(1 + OVERHEAD)), memoryview(bytearray(1))
    for number in range(RECORDS_PER_KEY + 1):
        sealer.seal(Kind.DATA, memoryview(b"x"), room)
        if number in (0, RECORDS_PER_KEY - 1, RECORDS_PER_KEY):
            opener._number = number
            opener.open(opener.expect(room[:HEAD_BYTES]), room[HEAD_BYTES:], plain)
            assert plain == b"x"
    nonce = (stuck._mask ^ RECORDS_PER_KEY).to_bytes(12, "big")
    with pytest.raises(InvalidTag):  # by the first key, at the first record after its time
        stuck._cipher.decrypt(nonce, bytes(room[HEAD_BYTES:]), bytes(room[:HEAD_BYTES]))
    blocks = RECORDS_PER_KEY * (MOST_BYTES // 16 + 1)
    assert blocks <= 1 << 33 < 2**34.5  # RFC 8446 §5.5, RFC 9001 §B.1: 2^-57 at 2^34.5


def test_the_secret_of_a_direction_is_not_shown():
    secret = Traffic(bytes(range(SECRET_BYTES)))
    assert repr(secret) == "Traffic()"
    with pytest.raises(TypeError):
        secret.__reduce__()
    with pytest.raises(RecordError):
        Traffic(bytes(SECRET_BYTES))


def test_an_end_that_goes_on_over_tls_is_not_listened_to(world):
    with listen_as("worker", platform=world.platform, job_digest=JOB) as listener:
        caller = connect_as("worker", listener.address, platform=world.platform, job_digest=JOB, expected_role="worker")
        called = listener.accept(deadline=10)
    for number in range(2):
        caller.send({"said": number})
    assert called.receive(deadline=10) == {"said": 0}
    with pytest.raises(ProtocolError):
        called.into_records("mesh").receive_into(memoryview(bytearray(1)), Deadline(10))
    with pytest.raises(LineClosedError):
        called.send({"said": "more"})
    called.close()
    caller.close()
