"""Checkpoints are C2SP signed notes: exact, signed by one key, and never believed unverified."""

import pytest

from strongroom.ledger.checkpoint import Checkpoint, CheckpointError, LedgerKey, SignedCheckpoint, sign_checkpoint
from strongroom.statements import SigningKey, VerifyKey

# The example of golang.org/x/mod/sumdb/note, whose key the C2SP specification uses too.
EXAMPLE_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"

KEY = SigningKey.from_seed(bytes(range(32)), name="ledger")
ORIGIN = "broker.strongroom/test"
PUBLIC = LedgerKey(origin=ORIGIN, key=KEY.public)
CHECKPOINT = Checkpoint(origin=ORIGIN, size=7, root=bytes(range(32)))
NOTE = sign_checkpoint(CHECKPOINT, KEY).encode()


def test_verifier_key_of_the_go_checksum_database_is_read_and_written():
    key = LedgerKey.decode(EXAMPLE_KEY)
    assert key.origin == "PeterNeumann"
    assert key.key_id.hex() == "c74f20a3"
    assert key.encode() == EXAMPLE_KEY


def test_signed_example_of_go_sumdb_note_verifies_byte_for_byte():
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    import base64

    raw = base64.b64decode(signature)
    key = LedgerKey.decode(EXAMPLE_KEY)
    assert raw[:4] == key.key_id
    key.key.verify(raw[4:], text.encode())


def test_checkpoint_signed_by_the_ledger_is_returned():
    assert PUBLIC.verify(NOTE).checkpoint == CHECKPOINT
    assert LedgerKey.decode(PUBLIC.encode()).verify(NOTE).encode() == NOTE


def test_note_has_the_form_of_c2sp():
    lines = NOTE.split("\n")
    assert lines[:2] == [ORIGIN, "7"]
    assert lines[3] == ""
    assert lines[4].startswith(f"— {ORIGIN} ")


def test_changed_size_breaks_the_signature():
    with pytest.raises(CheckpointError, match="signature does not hold"):
        PUBLIC.verify(NOTE.replace("\n7\n", "\n8\n"))


def test_checkpoint_of_another_ledger_is_refused():
    other = sign_checkpoint(Checkpoint(origin="elsewhere", size=7, root=bytes(32)), KEY).encode()
    with pytest.raises(CheckpointError, match="of ledger 'elsewhere'"):
        PUBLIC.verify(other)


def test_checkpoint_signed_by_another_key_is_refused():
    forged = sign_checkpoint(CHECKPOINT, SigningKey.generate(name="mallory")).encode()
    with pytest.raises(CheckpointError, match="not signed by the ledger's key"):
        PUBLIC.verify(forged)


def test_foreign_signatures_beside_the_ledgers_own_do_no_harm():
    witness = LedgerKey(origin="witness", key=SigningKey.generate(name="w").public)
    signed = SignedCheckpoint.parse(NOTE)
    both = SignedCheckpoint(
        checkpoint=signed.checkpoint, signatures=(("witness", witness.key_id, bytes(64)), *signed.signatures)
    )
    assert PUBLIC.verify(both.encode()).checkpoint == CHECKPOINT


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE[:-1],
        NOTE.replace("\n7\n", "\n07\n"),
        NOTE.replace("\n7\n", "\n-7\n"),
        NOTE.replace("\n7\n", "\n99999999999999999\n"),
        NOTE.replace("\n7\n", "\n7\nextension\n"),
        NOTE.replace("—", "-"),
        NOTE.replace(ORIGIN, "two words"),
        NOTE + "x" * 20_000,
        NOTE + "more\n",
    ],
)
def test_anything_that_is_not_exactly_a_checkpoint_is_refused(note):
    with pytest.raises(CheckpointError):
        PUBLIC.verify(note)


@pytest.mark.parametrize(
    "text", ["", "a+b", "a+00000000+AAAA", PUBLIC.encode()[:-4], PUBLIC.encode().replace("+", "-")]
)
def test_malformed_ledger_key_is_refused(text):
    with pytest.raises(CheckpointError):
        LedgerKey.decode(text)


def test_ledger_key_with_another_keys_id_is_refused():
    other = LedgerKey(origin=ORIGIN, key=VerifyKey(SigningKey.generate(name="x").public.raw))
    mixed = PUBLIC.encode().replace(PUBLIC.key_id.hex(), other.key_id.hex())
    with pytest.raises(CheckpointError, match="id does not match"):
        LedgerKey.decode(mixed)
