"""Somebody has the owner's key file, and guesses."""

from __future__ import annotations

import json

import pytest

from strongroom.envelope.custody import CustodyError, create_custody, open_custody
from strongroom.envelope.custody.failure import WrongPasswordError
from strongroom.envelope.keys import DataKey


@pytest.fixture(scope="module")
def stolen(tmp_path_factory):
    path = tmp_path_factory.mktemp("stolen") / "master.key"
    custody = create_custody(f"file:{path}", password=lambda: b"correct horse battery")
    return path, custody.wrap(DataKey.generate(), context=b"d")


def test_guess_opens_nothing_and_says_so(stolen):
    with pytest.raises(WrongPasswordError, match="the password does not open"):
        open_custody(f"file:{stolen[0]}", password=lambda: b"correct horse")


def test_cheaper_derivation_written_into_the_file_helps_no_guesser(stolen):
    """The parameters are associated data: lowering them makes even the right password fail."""
    path, _ = stolen
    original = path.read_text()
    document = json.loads(original)
    document["kdf"] |= {"memory_kib": 19_456, "passes": 1}
    path.write_text(json.dumps(document))
    try:
        with pytest.raises(WrongPasswordError):
            open_custody(f"file:{path}", password=lambda: b"correct horse battery")
    finally:
        path.write_text(original)


def test_master_key_of_the_thief_opens_nothing_of_the_owner(stolen, tmp_path):
    thief = create_custody(f"file:{tmp_path}/thief.key", password=lambda: b"the thief's own")
    with pytest.raises(CustodyError, match="does not open this data key"):
        thief.unwrap(stolen[1], context=b"d")
