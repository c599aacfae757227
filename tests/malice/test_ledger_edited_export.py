"""The keeper of an exported ledger edits it: any single byte, anywhere, is noticed."""

import random
import shutil

from book import Book

from strongroom.ledger.export import check_export, write_export


def test_any_flipped_byte_of_an_export_is_noticed(tmp_path):
    book = Book(300)
    good = tmp_path / "good"
    write_export(good, entries=book.log.entries(0, 300), signed=book.signed(), ledger=book.public)
    dice = random.Random(3)
    files = sorted(path for path in good.rglob("*") if path.is_file() and path.name != "ledger-key")
    for number, path in enumerate(files * 6):
        copy = shutil.copytree(good, tmp_path / str(number))
        target = copy / path.relative_to(good)
        data = bytearray(target.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        target.write_bytes(data)
        assert not check_export(copy, book.public, remembered=None).good, path
        shutil.rmtree(copy)


def test_refusal_turned_into_a_grant_is_noticed(tmp_path):
    book = Book(10)
    directory = tmp_path / "ledger"
    write_export(directory, entries=book.log.entries(0, 10), signed=book.signed(), ledger=book.public)
    bundle = directory / "tile/entries/000.p/10"
    old = book.log.entries(3, 4)[0]
    new = old.replace(b'"kind":"refusal"', b'"kind":"grant"').replace(b'["the policy expired"]', b"[]")
    frame = len(old).to_bytes(2, "big") + old
    bundle.write_bytes(bundle.read_bytes().replace(frame, len(new).to_bytes(2, "big") + new))
    problems = check_export(directory, book.public, remembered=None).problems
    assert "entry 3 does not match its hash in tile/0/000.p/10" in problems
