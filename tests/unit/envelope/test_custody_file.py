"""A master key in a file opens with its password, and with nothing else."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from strongroom.envelope.custody import CustodyError, create_custody, open_custody
from strongroom.envelope.custody.failure import WrongPasswordError
from strongroom.envelope.custody.file import FileCustody
from strongroom.envelope.keys import DataKey
from strongroom.errors import UsageError

PASSWORD = b"correct horse battery"


def password():
    return PASSWORD


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("custody") / "master.key"
    return path, create_custody(f"file:{path}", password=password)


@pytest.fixture
def stored(original, tmp_path):
    path = tmp_path / "master.key"
    path.write_bytes(original[0].read_bytes())
    path.chmod(0o600)
    return path


def test_key_wrapped_today_opens_after_a_restart(original):
    path, custody = original
    key = DataKey.generate()
    wrapped = custody.wrap(key, context=b"d@1")
    assert open_custody(custody.uri, password=password).unwrap(wrapped, context=b"d@1") == key
    assert custody.uri == f"file:{path}"


def test_file_is_for_its_owner_alone_and_holds_only_ciphertext(original):
    path, custody = original
    assert path.stat().st_mode & 0o777 == 0o600
    document = json.loads(path.read_text())
    assert (document["format"], document["version"], document["kdf"]["name"]) == (
        "strongroom/master-key",
        1,
        "argon2id",
    )
    assert document["kdf"]["memory_kib"] >= 65_536
    assert custody._master._secret.hex() not in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]


def test_wrong_password_is_said_clearly(stored):
    with pytest.raises(WrongPasswordError, match="does not open") as refused:
        open_custody(f"file:{stored}", password=lambda: b"wrong horse battery")
    assert "wrong horse" not in str(refused.value)


@pytest.mark.parametrize("short", [b"", b"1234567"])
def test_short_password_is_refused(tmp_path, short):
    with pytest.raises(UsageError, match="at least 8"):
        create_custody(f"file:{tmp_path}/master.key", password=lambda: short)
    assert not list(tmp_path.iterdir())


def test_existing_key_is_never_overwritten(stored):
    before = stored.read_bytes()
    with pytest.raises(CustodyError, match="exists already"):
        create_custody(f"file:{stored}", password=password)
    assert stored.read_bytes() == before


def test_password_can_be_changed_without_changing_the_key(stored):
    custody = open_custody(f"file:{stored}", password=password)
    wrapped = custody.wrap(DataKey(bytes(32)), context=b"c")
    custody.change_password(password=lambda: b"another long one")
    again = open_custody(f"file:{stored}", password=lambda: b"another long one")
    assert again.unwrap(wrapped, context=b"c") == DataKey(bytes(32))
    assert stored.stat().st_mode & 0o777 == 0o600
    with pytest.raises(WrongPasswordError):
        open_custody(f"file:{stored}", password=password)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_file_that_others_can_read_is_refused(stored, mode):
    stored.chmod(mode)
    with pytest.raises(CustodyError, match="readable by others") as refused:
        open_custody(f"file:{stored}", password=password)
    assert "chmod 600" in refused.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"cipher": "none"},
        {"nonce": "AAAA"},
        {"nonce": 5},
        {"sealed": "!"},
        {"extra": 1},
        {"kdf": {"name": "none"}},
    ],
)
def test_malformed_file_is_refused(stored, change):
    stored.write_text(json.dumps({**json.loads(stored.read_text()), **change}))
    with pytest.raises(CustodyError):
        open_custody(f"file:{stored}", password=password)


@pytest.mark.parametrize(
    "change",
    [{"memory_kib": 8}, {"memory_kib": 1 << 40}, {"passes": 10**9}, {"lanes": 0}, {"memory_kib": 64e3}, {"salt": ""}],
)
def test_file_cannot_ask_for_a_weak_or_endless_derivation(stored, change):
    """A file changed by an attacker could make opening it take forever, or make its password cheap to guess."""
    document = json.loads(stored.read_text())
    document["kdf"] |= change
    stored.write_text(json.dumps(document))
    with pytest.raises(CustodyError):
        open_custody(f"file:{stored}", password=password)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"\xff", b"[" * 10_000, b" " * 20_000])
def test_file_that_is_something_else_is_refused(stored, text):
    stored.write_bytes(text)
    with pytest.raises(CustodyError, match="not a strongroom master key"):
        open_custody(f"file:{stored}", password=password)


def test_absent_or_special_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("absent", "pipe"):
        with pytest.raises(CustodyError):
            open_custody(f"file:{tmp_path}/{name}", password=password)


@pytest.mark.parametrize(
    "uri",
    [
        "master.key",
        "file:master.key",
        "file://host/master.key",
        "file:/a?b=1",
        "smartcard:x",
        "",
        "https://x/y",
        "file://[",
    ],
)
def test_address_that_is_none_is_refused(uri):
    with pytest.raises(CustodyError) as refused:
        open_custody(uri, password=password)
    assert "file:/" in refused.value.hint


def test_dataset_whose_key_is_the_brokers_has_no_custody():
    with pytest.raises(CustodyError, match="stays with the broker"):
        open_custody("release:", password=password)


def test_wrapped_key_is_bound_to_its_context_and_master_key(original, tmp_path):
    wrapped = original[1].wrap(DataKey.generate(), context=b"d@1")
    for broken, context in (
        (wrapped, b"d@2"),
        (wrapped[:-4] + "AAAA", b"d@1"),
        ("file:v1:", b"d@1"),
        ("vault:v1:x", b"d@1"),
    ):
        with pytest.raises(CustodyError):
            original[1].unwrap(broken, context=context)
    other = create_custody(f"file:{tmp_path}/other.key", password=password)
    with pytest.raises(CustodyError, match="does not open this data key"):
        other.unwrap(wrapped, context=b"d@1")


def test_path_with_spaces_survives_the_uri(tmp_path):
    custody = create_custody(f"file:{tmp_path}/my key", password=password)
    assert isinstance(open_custody(custody.uri, password=password), FileCustody)
    assert custody.uri.endswith("/my%20key")


def test_custody_does_not_print_or_pickle_its_key(original):
    assert repr(original[1]) == f"FileCustody(uri='file:{original[0]}')"
    with pytest.raises(TypeError):
        pickle.dumps(original[1])
