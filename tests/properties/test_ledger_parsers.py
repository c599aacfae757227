"""Every parser of the ledger meets any bytes with an answer or a LedgerError, and reads back what it writes."""

from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from strongroom.errors import LedgerError
from strongroom.ledger.checkpoint import Checkpoint, LedgerKey, SignedCheckpoint, sign_checkpoint
from strongroom.ledger.export import check_export, tile_path
from strongroom.statements import SigningKey

KEY = SigningKey.from_seed(bytes(32), name="ledger")
PUBLIC = LedgerKey(origin="test", key=KEY.public)
NOTE = sign_checkpoint(Checkpoint(origin="test", size=3, root=bytes(32)), KEY).encode()


@settings(max_examples=200)
@given(st.text(max_size=200))
@example("\n\n\n\n")
@example("test\n3\n" + "A" * 43 + "=\n\n— test AAAA\n")
def test_any_text_is_a_checkpoint_or_an_error(text):
    for parse in (SignedCheckpoint.parse, Checkpoint.decode, LedgerKey.decode, PUBLIC.verify):
        try:
            parse(text)
        except LedgerError:
            continue


@settings(max_examples=200)
@given(st.integers(0, len(NOTE) - 1), st.characters(codec="utf-8"))
def test_no_changed_note_verifies_as_something_else(at, character):
    changed = NOTE[:at] + character + NOTE[at + 1 :]
    try:
        signed = PUBLIC.verify(changed)
    except LedgerError:
        return
    assert signed.checkpoint == SignedCheckpoint.parse(NOTE).checkpoint


@given(st.integers(0, 2**53), st.binary(min_size=32, max_size=32))
def test_checkpoint_reads_back_as_written(size, root):
    checkpoint = Checkpoint(origin="broker.strongroom/x", size=size, root=root)
    assert Checkpoint.decode(checkpoint.encode()) == checkpoint
    key = LedgerKey(origin="broker.strongroom/x", key=KEY.public)
    assert key.verify(sign_checkpoint(checkpoint, KEY).encode()).checkpoint == checkpoint


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_different_tiles_have_different_paths(one, other):
    assert (tile_path(0, one, 256) == tile_path(0, other, 256)) == (one == other)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.binary(max_size=120))
def test_any_bytes_in_place_of_tiles_are_problems_and_never_crashes(tmp_path_factory, bundle, tile):
    directory = Path(tmp_path_factory.mktemp("export"))
    for name, data in (("tile/entries/000.p/3", bundle), ("tile/0/000.p/3", tile), ("checkpoint", NOTE.encode())):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    assert not check_export(directory, PUBLIC, remembered=None).good
