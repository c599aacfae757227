"""Master keys outside the home: made, tried, used and left by the command line, with a PIN of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strongroom.cli.journey import run
from strongroom.cli.verb import opening
from strongroom.parties.home import Home

pytestmark = pytest.mark.softhsm
PASSWORD = "correct horse battery"
Told = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An owner's desk: a home under a password, the token's PIN in a file, and a small CSV."""
    place = tmp_path_factory.mktemp("desk")
    (place / "password").write_text(PASSWORD + "\n")
    (place / "pin").write_text("vault-4711\n")
    (place / "pin").chmod(0o600)
    (place / "in.csv").write_text("id,city\n1,Samarkand\n")
    assert run(["identity", "--name", "clinic", "--role", "owner", *at(place)]) == 0
    return place


@pytest.fixture(scope="module")
def key(desk: Path, softhsm: object) -> str:
    uri = softhsm.uri("cli", token="cards")
    assert run(["custody", "create", uri, "--password-file", str(desk / "pin")]) == 0
    return uri


def at(desk: Path) -> list[str]:
    return ["--home", str(desk / "home"), "--password-file", str(desk / "password")]


def pin_of(desk: Path) -> list[str]:
    return ["--custody-password-file", str(desk / "pin")]


def answer(words: list[str], told: Told, *, code: int = 0) -> dict[str, object]:
    told.readouterr()
    assert run([*words, "--json"]) == code
    return json.loads(told.readouterr().out)


def encrypt(desk: Path, dataset: str) -> list[str]:
    return ["encrypt", str(desk / "in.csv"), "--dataset", dataset, "--to", str(desk / dataset)]


def test_key_is_made_once_and_can_be_tried(desk: Path, key: str, capsys: Told) -> None:
    tried = answer(["custody", "check", key, "--password-file", str(desk / "pin")], capsys)
    assert tried["custody"] == key
    told = answer(["custody", "create", key, "--password-file", str(desk / "pin")], capsys, code=1)
    assert "exists already" in told["error"]["message"]


def test_master_key_may_be_made_in_a_file_that_is_not_the_homes(desk: Path, capsys: Told) -> None:
    uri = f"file:{desk}/usb.key"
    words = ["--password-file", str(desk / "password")]
    assert answer(["custody", "create", uri, *words], capsys)["custody"] == uri
    assert answer(["custody", "check", uri, *words], capsys)["custody"] == uri


def test_dataset_is_encrypted_under_the_token_and_moved_home(desk: Path, key: str, capsys: Told) -> None:
    made = answer([*encrypt(desk, "moving"), "--custody", key, *pin_of(desk), *at(desk)], capsys)
    assert made["custody"] == key
    home = Home(desk / "home").default_custody
    words = ["custody", "move", str(desk / "moving"), *pin_of(desk), *at(desk)]
    moved = answer([*words, "--to", home], capsys)
    assert (moved["custody"], moved["revision"]) == (home, 2)
    back = answer([*words, "--to", key, "--to-password-file", str(desk / "pin")], capsys)
    assert (back["custody"], back["revision"]) == (key, 3)


def test_identity_may_be_sealed_by_the_token_alone(desk: Path, softhsm: object, key: str, capsys: Told) -> None:
    """Then there is no master key in the home, and the token's PIN is all that anybody is asked for."""
    words = ["--home", str(desk / "bank"), "--password-file", str(desk / "pin")]
    made = answer(["identity", "--name", "bank", "--role", "owner", "--custody", key, *words], capsys)
    assert made["custody"] == key
    assert not (desk / "bank" / "master.key").exists()
    assert Home(desk / "bank").default_custody == key
    assert answer([*encrypt(desk, "ledger"), *words], capsys)["custody"] == key


def test_identity_moves_from_the_password_to_the_token(desk: Path, key: str, capsys: Told) -> None:
    words = ["--home", str(desk / "shop")]
    before, after = ["--password-file", str(desk / "password")], ["--password-file", str(desk / "pin")]
    party = answer(["identity", "--name", "shop", "--role", "owner", *words, *before], capsys)["party"]
    moved = answer(["custody", "move", "--to", key, "--to-password-file", str(desk / "pin"), *words, *before], capsys)
    assert moved == {"party": party, "custody": key}
    assert answer([*encrypt(desk, "stock"), *words, *after], capsys)["custody"] == key
    assert answer(["inspect", str(desk / "stock")], capsys)["payload"]["owner"] == party


def test_identity_under_a_key_that_is_not_there_leaves_no_home(
    desk: Path, softhsm: object, key: str, capsys: Told
) -> None:
    words = ["--home", str(desk / "never"), "--password-file", str(desk / "pin")]
    absent = softhsm.uri("absent", token="cards")
    told = answer(["identity", "--name", "b", "--role", "owner", "--custody", absent, *words], capsys, code=1)
    assert "custody create" in told["error"]["hint"]
    assert not (desk / "never").exists()


def test_homes_password_is_never_tried_as_a_pin(desk: Path, softhsm: object, capsys: Told) -> None:
    """A script that names only a password would otherwise lock the token, one try per run."""
    asked = softhsm.uri("any", token="guarded")
    told = answer([*encrypt(desk, "locked"), "--custody", asked, *at(desk)], capsys, code=2)
    assert told["error"]["message"] == "no terminal to ask for the PIN of the token guarded"
    assert told["error"]["hint"] == "name a file: --custody-password-file FILE"
    home = Home(desk / "home")
    assert opening(asked, home=home, password=bytes, other=None) is not bytes
    assert opening(home.default_custody, home=home, password=bytes, other=bytearray) is bytes
    assert opening("file:/usb.key", home=home, password=bytes, other=None) is bytes


def test_password_is_asked_for_once(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told) -> None:
    """Identity and dataset open the same master key; nobody types its password twice."""
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.prompt", lambda text, **_: asked.append(text) or PASSWORD)
    assert run([*encrypt(desk, "typed"), "--home", str(desk / "home")]) == 0
    assert asked == ["Password"]


def test_person_is_asked_for_the_pin_of_the_token_by_its_name(
    desk: Path, key: str, softhsm: object, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.prompt", lambda text, **more: asked.append((text, more)) or "vault-4711")
    assert run(["custody", "create", softhsm.uri("asked", token="persons")]) == 0
    assert [(text, more["confirmation_prompt"]) for text, more in asked] == [("PIN of the token persons", False)]
