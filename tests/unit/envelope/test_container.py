"""Files of any size and kind round trip through segments, and can be read at any place."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import pickle

import pytest

from strongroom.envelope.container import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    SMALL_SEGMENT_BYTES,
    ContainerError,
    Header,
    SealedWriter,
    open_file,
    plain_size,
    seal_file,
)
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.keys import DataKey, DatasetKeys, MissingKeyError

SMALL = SMALL_SEGMENT_BYTES
KEYS = DatasetKeys.for_files(DataKey.generate(), dataset="scans", version=1)


def seal(path, data, *, segment_size=SMALL, name="f"):
    return seal_file(io.BytesIO(data), path, KEYS, name=name, segment_size=segment_size)


@pytest.mark.parametrize("segment_size", [SMALL, SEGMENT_BYTES])
@pytest.mark.parametrize("around", [0, 1, 2])
@pytest.mark.parametrize("delta", [-1, 0, 1])
def test_every_length_around_a_segment_boundary_round_trips(tmp_path, segment_size, around, delta):
    data = os.urandom(max(0, around * segment_size + delta))
    entry = seal(tmp_path / "c", data, segment_size=segment_size)
    assert (tmp_path / "c").stat().st_size == entry.size
    assert entry.sha256 == "sha256:" + hashlib.sha256((tmp_path / "c").read_bytes()).hexdigest()
    assert plain_size(entry.size, segment_size=segment_size) == len(data)
    with open_file(tmp_path / "c", KEYS, name="f") as reader:
        assert reader.size == len(data)
        assert reader.read() == data
        assert b"".join(bytes(piece) for piece in reader.segments()) == data


def test_whole_reads_go_straight_into_the_callers_buffer(tmp_path):
    data = os.urandom(5 * SMALL + 77)
    seal(tmp_path / "c", data)
    with open_file(tmp_path / "c", KEYS, name="f") as reader:
        buffer = bytearray(len(data) + 10)
        assert reader.readinto(buffer) == len(data)
        assert buffer[: len(data)] == data
        assert reader.readinto(buffer) == 0


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (SMALL - 1, 2), (SMALL, SMALL), (3 * SMALL - 5, 10), (100, 3 * SMALL)]
)
def test_any_range_can_be_read(tmp_path, offset, length):
    data = os.urandom(4 * SMALL + 9)
    seal(tmp_path / "c", data)
    with open_file(tmp_path / "c", KEYS, name="f") as reader:
        reader.seek(offset)
        assert reader.read(length) == data[offset : offset + length]
        assert reader.tell() == offset + length
        reader.seek(-9, io.SEEK_END)
        assert reader.read() == data[-9:]
        reader.seek(10**9)
        assert reader.read() == b""
        with pytest.raises(ValueError, match="cannot seek"):
            reader.seek(-1)


def test_lines_are_read_through_a_buffered_reader(tmp_path):
    seal(tmp_path / "c", b"one\ntwo\n" * 20_000)
    with io.TextIOWrapper(io.BufferedReader(open_file(tmp_path / "c", KEYS, name="f"))) as lines:
        assert sum(1 for _ in lines) == 40_000


def test_writer_takes_pieces_of_any_size(tmp_path):
    data = os.urandom(3 * SMALL + 1)
    with SealedWriter(tmp_path / "c", KEYS, name="f", segment_size=SMALL) as writer:
        start = 0
        for size in (1, SMALL - 1, 1, 2 * SMALL, 0, len(data)):
            writer.write(data[start : start + size])
            start += size
    with open_file(tmp_path / "c", KEYS, name="f") as reader:
        assert reader.read() == data


def test_model_is_pickled_straight_into_a_container(tmp_path):
    with SealedWriter(tmp_path / "model", KEYS, name="f") as writer:
        pickle.dump({"weights": list(range(100_000))}, writer)
    with io.BufferedReader(open_file(tmp_path / "model", KEYS, name="f")) as stream:
        assert pickle.load(stream)["weights"][-1] == 99_999


def test_file_abandoned_half_way_is_removed(tmp_path):
    def write():
        with SealedWriter(tmp_path / "c", KEYS, name="f") as writer:
            writer.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


def test_finished_file_takes_no_more(tmp_path):
    with SealedWriter(tmp_path / "c", KEYS, name="f") as writer:
        writer.finish()
        with pytest.raises(ContainerError, match="finished"):
            writer.write(b"more")


def test_existing_file_is_never_overwritten(tmp_path):
    (tmp_path / "c").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        seal(tmp_path / "c", b"")
    assert (tmp_path / "c").read_bytes() == b"precious"


def test_same_content_never_encrypts_to_the_same_bytes(tmp_path):
    seal(tmp_path / "a", bytes(SMALL))
    seal(tmp_path / "b", bytes(SMALL))
    a, b = (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()
    assert a[16:HEADER_BYTES] != b[16:HEADER_BYTES]
    assert not {a[i : i + 16] for i in range(64, 1024, 16)} & {b[i : i + 16] for i in range(64, 1024, 16)}


def test_nonces_say_which_segment_and_whether_it_is_the_last():
    header = Header.generate(segment_size=SMALL)
    assert header.nonce(258, last=False) == header.prefix + b"\x00\x00\x01\x02\x00"
    assert header.nonce(258, last=True)[-1] == 1
    assert len({header.nonce(i, last=last) for i in range(100) for last in (False, True)}) == 200


def test_buffers_are_aligned_and_reused(tmp_path):
    seal(tmp_path / "c", os.urandom(3 * SMALL))
    with open_file(tmp_path / "c", KEYS, name="f") as reader:
        places = {ctypes.addressof(ctypes.c_char.from_buffer(reader._plain)) for _ in reader.segments()}
        assert len(places) == 1
        assert places.pop() % 64 == 0


def test_held_plaintext_is_overwritten_on_close(tmp_path):
    seal(tmp_path / "c", b"\xaa" * SMALL)
    reader = open_file(tmp_path / "c", KEYS, name="f")
    reader.read()
    held = reader._plain
    reader.close()
    assert bytes(held) == bytes(SMALL)
    with pytest.raises(ValueError, match="closed"):
        reader.read(1)


def test_the_rest_is_read_at_once_from_any_place(tmp_path):
    data = os.urandom(2 * SMALL + 5)
    seal(tmp_path / "c", data)
    with open_file(tmp_path / "c", KEYS, name="f") as reader:
        reader.seek(SMALL - 3)
        assert reader.readall() == data[SMALL - 3 :]
        assert reader.readall() == b""
        reader.seek(10**9)
        assert reader.readall() == b""
    with pytest.raises(ValueError, match="closed"):
        reader.readall()


def test_readers_one_after_the_other_share_memory_and_readers_side_by_side_do_not(tmp_path):
    contents = {name: os.urandom(size) for name, size in (("a", SMALL), ("b", 100), ("c", 3 * SMALL))}
    for name, data in contents.items():
        seal(tmp_path / name, data, name=name)
    for _ in range(3):
        readers = {name: open_file(tmp_path / name, KEYS, name=name) for name in contents}
        assert {name: reader.readall() for name, reader in readers.items()} == contents
        places = {id(buffer.obj) for reader in readers.values() for buffer in (reader._plain, reader._sealed)}
        assert len(places) == 2 * len(readers)
        for reader in readers.values():
            reader.close()
        with open_file(tmp_path / "b", KEYS, name="b") as again:
            assert id(again._plain.obj) in places


def test_a_piece_that_somebody_kept_is_never_another_files(tmp_path):
    for name in "ab":
        seal(tmp_path / name, name.encode() * SMALL, name=name)
    with open_file(tmp_path / "a", KEYS, name="a") as reader:
        kept = next(iter(reader.segments()))
    with open_file(tmp_path / "b", KEYS, name="b") as reader:
        assert reader.readall() == b"b" * SMALL
        assert bytes(kept) == bytes(SMALL)


def test_a_process_that_was_forked_decrypts_into_memory_of_its_own(tmp_path):
    for name in "ab":
        seal(tmp_path / name, name.encode() * SMALL, name=name)
    reader = open_file(tmp_path / "a", KEYS, name="a")
    child = os.fork()
    if child == 0:
        reader._plain[:] = bytes(SMALL)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert reader.readall() == b"a" * SMALL
    reader.close()


def test_table_keys_open_no_container(tmp_path):
    seal(tmp_path / "c", b"x")
    table_keys = DatasetKeys.from_dek(DataKey.generate(), dataset="scans", version=1, columns=["a"])
    with pytest.raises(MissingKeyError):
        open_file(tmp_path / "c", table_keys, name="f")


def test_odd_segment_size_is_refused(tmp_path):
    with pytest.raises(ContainerError, match="segments have"):
        SealedWriter(tmp_path / "c", KEYS, name="f", segment_size=4096)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 63, 64, 79, 64 + SMALL + 16 + 16, 64 + SMALL + 17])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(TamperedDataError):
        plain_size(size, segment_size=SMALL)


def test_things_that_are_not_containers_are_refused(tmp_path):
    (tmp_path / "text").write_bytes(b"x" * 200)
    (tmp_path / "short").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("text")
    for name in ("text", "short", "pipe", "link", "absent"):
        with pytest.raises((ContainerError, TamperedDataError)):
            open_file(tmp_path / name, KEYS, name="f")
