"""The storage flips one bit, anywhere."""

from __future__ import annotations

import random

import pytest

from strongroom.envelope.container import open_file
from strongroom.envelope.manifest import read_manifest, verify_manifest
from strongroom.envelope.table import decrypting, open_table
from strongroom.errors import StrongroomError


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << random.Random(position).randrange(8)
    path.write_bytes(data)


def read_all(at_rest):
    with decrypting("people"):
        return open_table(at_rest.directory, at_rest.keys(), manifest=at_rest.manifest).to_table()


def test_untouched_data_reads(table_at_rest):
    assert read_all(table_at_rest).num_rows == 2000


@pytest.mark.parametrize("place", [i / 24 for i in range(24)] + ["length", "end"])
def test_flipped_bit_in_a_table_file_is_refused(table_at_rest, place):
    size = table_at_rest.manifest.files[2].size
    position = {"length": size - 8, "end": size - 1}.get(place)
    if position is None:
        position = 4 + int(place * (size - 4))
    flip(table_at_rest.path(2), position)
    with pytest.raises(StrongroomError):
        read_all(table_at_rest)


@pytest.mark.parametrize("place", [i / 24 for i in range(24)])
def test_flipped_bit_in_a_container_is_refused(files_at_rest, place):
    path = files_at_rest.path(0)
    flip(path, int(place * path.stat().st_size))

    def read():
        with open_file(path, files_at_rest.keys(), name=path.name) as reader:
            return reader.read()

    with pytest.raises(StrongroomError):
        read()


@pytest.mark.parametrize("position", range(64))
def test_flipped_bit_in_a_container_header_is_refused(files_at_rest, position):
    path = files_at_rest.path(0)
    flip(path, position)
    with pytest.raises(StrongroomError):
        open_file(path, files_at_rest.keys(), name=path.name)


def test_flipped_bit_in_a_manifest_never_passes(table_at_rest):
    """Every byte of the file in turn: refused, or (in unused base64 bits and JSON spaces) the very same manifest."""
    path = table_at_rest.directory / "manifest.json"
    original = path.read_bytes()
    for position in range(0, len(original), 3):
        path.write_bytes(original)
        flip(path, position)
        try:
            manifest = verify_manifest(read_manifest(table_at_rest.directory), owner=table_at_rest.owner.party)
        except StrongroomError:
            continue
        assert manifest == table_at_rest.manifest, position
