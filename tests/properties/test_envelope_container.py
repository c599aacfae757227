"""A container reads back what was written, in any pieces and from any place, and notices any change."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.envelope.container import SMALL_SEGMENT_BYTES, SealedWriter, open_file
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.errors import EnvelopeError

SEGMENT = SMALL_SEGMENT_BYTES
KEYS = DatasetKeys.for_files(DataKey.generate(), dataset="d", version=1)
SIZES = st.integers(0, 3 * SEGMENT + 5) | st.sampled_from([0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT])
MOVES = st.tuples(st.integers(0, 4 * SEGMENT), st.integers(0, 2 * SEGMENT))


def content(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@settings(max_examples=40, deadline=None)
@given(st.lists(SIZES, max_size=4), st.lists(MOVES, max_size=8))
def test_reads_and_seeks_agree_with_a_plain_file(pieces, moves):
    data = content(sum(pieces))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        with SealedWriter(path, KEYS, name="f", segment_size=SEGMENT) as writer:
            start = 0
            for size in pieces:
                writer.write(data[start : start + size])
                start += size
        plain = io.BytesIO(data)
        with open_file(path, KEYS, name="f") as sealed:
            assert sealed.size == len(data)
            for offset, length in moves:
                sealed.seek(offset)
                plain.seek(offset)
                assert sealed.read(length) == plain.read(length)
            assert b"".join(map(bytes, sealed.segments())) == data


@settings(max_examples=40, deadline=None)
@given(SIZES, st.data())
def test_any_changed_byte_or_length_is_noticed(size, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        with SealedWriter(path, KEYS, name="f", segment_size=SEGMENT) as writer:
            writer.write(content(size))
        raw = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        elif data.draw(st.booleans()):
            del raw[data.draw(st.integers(0, len(raw) - 1)) :]
        else:
            raw += bytes(data.draw(st.integers(1, 100)))
        path.write_bytes(raw)
        try:
            with open_file(path, KEYS, name="f") as reader:
                reader.read()
        except EnvelopeError:
            return
        raise AssertionError("a changed container was read to its end")
