"""A home gives its keys to nobody without the password, and never loses or replaces an identity."""

from __future__ import annotations

import json
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from strongroom.catalog import verify_identity
from strongroom.envelope.hpke import seal
from strongroom.errors import EnvelopeError, UsageError
from strongroom.parties.home import DamagedHomeError, Home, HomeError
from strongroom.statements import Statement

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def password() -> bytes:
    return b"correct horse battery"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("parties") / "a home with spaces")
    made.create_identity("clinic", role="owner", password=password, now=NOW)
    return made


def copied(home: Home, target: Path) -> Home:
    target.mkdir()
    for file in home.directory.iterdir():
        if file.is_file():
            shutil.copy2(file, target)
    return Home(target)


def test_keys_come_back_with_the_password_and_belong_to_the_public_identity(home: Home) -> None:
    keys, public = home.open_keys(password), home.identity()
    assert keys.signing.party == public.party
    assert public.created == NOW
    sealed = seal(public.kem_public, b"for the clinic", info=b"test")
    assert keys.kem.open(sealed, info=b"test") == b"for the clinic"


def test_wrong_password_opens_nothing(home: Home) -> None:
    with pytest.raises(EnvelopeError, match="password"):
        home.open_keys(lambda: b"incorrect horse battery")


def test_public_identity_takes_no_password_and_is_a_statement_that_anybody_can_verify(
    home: Home, tmp_path: Path
) -> None:
    home.export_identity(tmp_path / "clinic.json")
    known = verify_identity(Statement.decode((tmp_path / "clinic.json").read_bytes()))
    assert (known.party, known.role) == (home.identity().party, "owner")


def test_nobody_else_on_the_machine_can_read_a_home(home: Home) -> None:
    assert stat.S_IMODE(home.directory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in home.directory.iterdir())


def test_no_file_of_a_home_holds_a_private_key_in_the_clear(home: Home) -> None:
    keys = home.open_keys(password)
    secrets = (keys.signing.reveal_seed(), keys.kem.encode_private())
    for file in home.directory.iterdir():
        content = file.read_bytes()
        assert not any(secret in content or secret.hex().encode() in content for secret in secrets)


def test_keys_do_not_print(home: Home) -> None:
    keys = home.open_keys(password)
    assert keys.signing.reveal_seed().hex() not in repr(keys)
    assert "seed" not in repr(keys)


def test_an_identity_is_never_replaced(home: Home) -> None:
    before = home.identity().party
    with pytest.raises(HomeError, match="already"):
        home.create_identity("clinic", role="owner", password=password, now=NOW)
    assert home.identity().party == before


def test_a_directory_without_identity_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(HomeError) as caught:
        Home(tmp_path).identity()
    assert "strongroom identity --name" in caught.value.hint


def test_creation_that_was_cut_off_after_the_master_key_can_be_repeated(home: Home, tmp_path: Path) -> None:
    cut = copied(home, tmp_path / "cut")
    (cut.directory / "identity.json").unlink()
    cut.create_identity("clinic", role="owner", password=password, now=NOW)
    assert cut.open_keys(password).signing.party == cut.identity().party


def test_another_partys_public_identity_in_the_home_does_not_get_the_keys(home: Home, tmp_path: Path) -> None:
    """A thief of nothing but write access would have us sign in another name."""
    other = Home(tmp_path / "other")
    other.create_identity("clinic", role="owner", password=password, now=NOW)
    mixed = copied(home, tmp_path / "mixed")
    (mixed.directory / "identity.json").write_bytes((other.directory / "identity.json").read_bytes())
    with pytest.raises(EnvelopeError):
        mixed.open_keys(password)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "x"}', b"\xff\xfe", b"[" * 100_000])
def test_damaged_key_file_is_named_and_not_guessed_at(home: Home, tmp_path: Path, content: bytes) -> None:
    damaged = copied(home, tmp_path / "damaged")
    (damaged.directory / "identity.sealed").write_bytes(content)
    with pytest.raises(DamagedHomeError, match=r"identity\.sealed is damaged"):
        damaged.open_keys(password)


def test_one_changed_character_of_the_sealed_keys_opens_nothing(home: Home, tmp_path: Path) -> None:
    damaged = copied(home, tmp_path / "flipped")
    file = damaged.directory / "identity.sealed"
    value = json.loads(file.read_bytes())
    value["sealed"] = value["sealed"][:20] + ("A" if value["sealed"][20] != "A" else "B") + value["sealed"][21:]
    file.write_text(json.dumps(value))
    with pytest.raises(EnvelopeError):
        damaged.open_keys(password)


def test_finished_jobs_are_found_by_id_and_ids_cannot_leave_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.remember_job("j1", digest="sha384:00", broker="https://b:1", outputs=[{"name": "delays", "directory": "/d"}])
    known = home.recall_job("j1")
    assert (known.digest, known.choose(None), known.outputs["delays"]) == ("sha384:00", "delays", Path("/d"))
    with pytest.raises(UsageError, match="no output"):
        known.choose("other")
    with pytest.raises(UsageError, match="knows no job"):
        home.recall_job("j2")
    with pytest.raises(UsageError, match="not a job's id"):
        home.recall_job("../identity")


def test_home_that_was_moved_still_opens(tmp_path: Path) -> None:
    """As when it is brought back from a copy: its master key is where the home is now."""
    made = Home(tmp_path / "before")
    made.create_identity("clinic", role="owner", password=password, now=NOW)
    (tmp_path / "before").rename(tmp_path / "after")
    moved = Home(tmp_path / "after")
    assert moved.default_custody == f"file:{tmp_path}/after/master.key"
    assert moved.open_keys(password).signing.party == moved.identity().party
