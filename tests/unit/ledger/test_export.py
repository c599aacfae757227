"""An export is complete, readable by other tools, and its offline check names every problem."""

import json
import shutil

import pytest
from book import Book

from strongroom.errors import LedgerError, UsageError
from strongroom.ledger.export import check_export, read_entry, tile_path, write_export
from strongroom.ledger.proofs import LeafRange, leaf_hash


def export(book, directory, size=None):
    signed = book.signed(size)
    entries = book.log.entries(0, signed.checkpoint.size)
    write_export(directory, entries=entries, signed=signed, ledger=book.public)
    return directory


@pytest.fixture(scope="module")
def book():
    return Book(600)


@pytest.fixture(scope="module")
def good(book, tmp_path_factory):
    return export(book, tmp_path_factory.mktemp("export") / "ledger")


@pytest.fixture
def copy(good, tmp_path):
    return shutil.copytree(good, tmp_path / "ledger")


def problems(directory, book, remembered=None):
    return check_export(directory, book.public, remembered=remembered).problems


def test_paths_are_those_of_tlog_tiles():
    assert tile_path(0, 0, 256) == "tile/0/000"
    assert tile_path(1, 1234067, 5) == "tile/1/x001/x234/067.p/5"
    assert tile_path("entries", 1000, 256) == "tile/entries/x001/000"


def test_layout_is_that_of_tlog_tiles(good):
    files = {path.relative_to(good).as_posix() for path in good.rglob("*") if path.is_file()}
    assert files == {
        "checkpoint",
        "ledger-key",
        *(f"tile/{kind}/{name}" for kind in ("0", "entries") for name in ("000", "001", "002.p/88")),
        "tile/1/000.p/2",
    }


def test_tiles_hold_the_hashes_of_the_tree(good, book):
    tile = (good / "tile/0/001").read_bytes()
    assert tile[:32] == leaf_hash(book.log.entries(256, 257)[0])
    assert (good / "tile/1/000.p/2").read_bytes()[32:] == Book(512).log._hashes([LeafRange(256, 512)])[0]


def test_good_export_has_no_problem_and_counts_its_kinds(good, book):
    report = check_export(good, book.public, remembered=book.signed(300).checkpoint)
    assert report.good
    assert report.size == 600
    assert report.kinds == {"grant": 400, "refusal": 200}


def test_single_entry_is_read_from_a_checked_export(good):
    assert dict(read_entry(good, 257, size=600).facts) == {"job": "honest-257"}
    with pytest.raises(LedgerError):
        read_entry(good, 600, size=600)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257])
def test_exports_of_any_size_are_good(tmp_path, size):
    book = Book(size)
    assert problems(export(book, tmp_path / "ledger"), book) == ()


def test_changed_entry_is_named(copy, book):
    path = copy / "tile/entries/001"
    path.write_bytes(path.read_bytes().replace(b"honest-300", b"forged-300"))
    found = problems(copy, book)
    assert "entry 300 does not match its hash in tile/0/001" in found
    assert "the entries do not lead to the signed root of 600 entries" in found


def test_entry_and_its_tile_changed_together_still_miss_the_root(copy, book):
    bundle, tile = copy / "tile/entries/000", copy / "tile/0/000"
    old = book.log.entries(7, 8)[0]
    new = old.replace(b"honest-7", b"forged-7")
    bundle.write_bytes(bundle.read_bytes().replace(old, new))
    tile.write_bytes(tile.read_bytes().replace(leaf_hash(old), leaf_hash(new)))
    found = problems(copy, book)
    assert "the entries do not lead to the signed root of 600 entries" in found
    assert "tile/1/000.p/2 does not match the entries below it" in found


def test_missing_bundle_is_named_and_the_rest_is_still_checked(copy, book):
    (copy / "tile/entries/001").unlink()
    other = copy / "tile/entries/000"
    other.write_bytes(other.read_bytes().replace(b"honest-3", b"forged-3"))
    found = problems(copy, book)
    assert "tile/entries/001 is missing" in found
    assert "entry 3 does not match its hash in tile/0/000" in found


def test_bundle_cut_inside_an_entry_is_named(copy, book):
    path = copy / "tile/entries/002.p/88"
    path.write_bytes(path.read_bytes()[:-5])
    assert "tile/entries/002.p/88 ends inside an entry, or holds too many" in problems(copy, book)


def test_checkpoint_by_another_key_is_a_problem(copy, book):
    from strongroom.statements import SigningKey

    other = Book(600, key=SigningKey.generate(name="mallory"))
    (copy / "checkpoint").write_text(other.note())
    assert "not signed by the ledger's key" in problems(copy, book)[0]


def test_ledger_cut_back_behind_what_is_remembered_is_a_problem(book, tmp_path):
    cut = export(book, tmp_path / "cut", size=400)
    assert problems(cut, book) == ()
    (found,) = problems(cut, book, remembered=book.signed(600).checkpoint)
    assert found == "the export has 400 entries, 600 are remembered: it was cut or rolled back"


def test_rewritten_history_is_a_problem_even_when_signed(book, tmp_path):
    rewritten = export(Book(600, word="rewritten"), tmp_path / "rewritten")
    assert problems(rewritten, book) == ()
    (found,) = problems(rewritten, book, remembered=book.signed(300).checkpoint)
    assert "history was rewritten" in found


def test_file_that_does_not_belong_is_a_problem(copy, book):
    (copy / "tile/0/003").write_bytes(b"")
    assert problems(copy, book) == ("tile/0/003 does not belong to this export",)


def test_link_in_place_of_a_tile_is_not_followed(copy, book, tmp_path):
    tile = copy / "tile/0/000"
    tile.rename(tmp_path / "elsewhere")
    tile.symlink_to(tmp_path / "elsewhere")
    assert "tile/0/000 is missing" in problems(copy, book)


def test_directory_without_a_checkpoint_has_one_clear_problem(tmp_path, book):
    assert problems(tmp_path, book) == ("checkpoint is missing",)


def test_export_never_overwrites(good, book):
    with pytest.raises(UsageError, match="exists"):
        export(book, good)


def test_entries_that_do_not_lead_to_the_checkpoint_are_not_written(book, tmp_path):
    with pytest.raises(LedgerError, match="do not lead"):
        write_export(tmp_path / "out", entries=book.log.entries(0, 599), signed=book.signed(), ledger=book.public)
    assert list(tmp_path.iterdir()) == []


def test_report_is_plain_data(good, book):
    report = check_export(good, book.public, remembered=None)
    assert json.loads(json.dumps({"kinds": report.kinds, "problems": list(report.problems)}))["problems"] == []
