"""A broker's store is copied while it serves, and a copy brings the broker back that lost its disk."""

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scene import Scene

from strongroom.broker.backup import prune_backups, restore_backup, take_backup
from strongroom.catalog.store import StoreError, StoreInUseError
from strongroom.cli.journey import run
from strongroom.envelope.keys import reveal
from strongroom.errors import UsageError
from strongroom.ledger.memory import CheckpointMemory


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.fixture
def place(scene, request):
    """Where the store is: a directory, or a database."""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        scene.place = server.url(server.database())
    return scene.place or str(scene.store)


HANDBOOK = Path(__file__).parents[3] / "docs" / "how-to" / "operators-handbook.md"
EVERYWHERE = pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


def backup(place, folder, *, hours=0):
    return take_backup(place, folder, now=datetime(2027, 1, 1, tzinfo=UTC) + timedelta(hours=hours))


def memory(scene):
    return CheckpointMemory(scene.directory / "shared.json")


def lose_disk(scene, request):
    """The disk is gone, the machine is not; return where a new store may be."""
    scene.kill()
    if scene.place:
        server = request.getfixturevalue("postgres")
        scene.place = server.url(server.database())
        return scene.place
    shutil.rmtree(scene.store)
    return str(scene.store)


@EVERYWHERE
def test_broker_that_lost_its_disk_goes_on_from_the_newest_copy(scene, place, request, tmp_path):
    client = scene.ready()
    job = scene.job()
    ticket = client.submit_job(job.statement)
    before = client.checkpoint()
    made = backup(place, tmp_path / "backups")
    assert (made.size, made.root) == (before.size, before.root)
    assert made.path.stat().st_mode & 0o077 == 0
    assert not any(reveal(dek) in made.path.read_bytes() for dek in scene.deks.values())
    empty = lose_disk(scene, request)
    assert restore_backup(made.path, empty, remembered=[memory(scene)]).size == made.size
    assert scene.start()["event"] == "ready"
    client.checkpoint()  # It continues the ledger that this client remembers.
    assert scene.driver(client, job, ticket).release(["flights"]).datasets["flights"].dataset == "flights"


@pytest.mark.slow
@EVERYWHERE
def test_copies_taken_while_the_broker_decides_are_each_whole(scene, place, tmp_path):
    client, over = scene.ready(), threading.Event()

    def decide():
        while not over.is_set():
            client.submit_job(scene.job().statement)

    busy = threading.Thread(target=decide)
    busy.start()
    try:
        made = [backup(place, tmp_path / "backups", hours=number) for number in range(4)]
    finally:
        over.set()
        busy.join()
    sizes = [one.size for one in made]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    signed = client.checkpoint()
    for one in made:
        assert client.consistency(one.size, signed.size) is not None


def test_oldest_copies_are_deleted_and_nothing_else(tmp_path):
    folder = tmp_path / "backups"
    folder.mkdir()
    made = [folder / f"2027010{day}T000000Z-000000000{day}.store" for day in (1, 2, 3)]
    for path in [*made, folder / "notes.txt"]:
        path.write_text("mine")
    assert prune_backups(folder, keep=2) == made[:1]
    assert sorted(folder.iterdir()) == sorted([*made[1:], folder / "notes.txt"])
    with pytest.raises(UsageError):
        prune_backups(folder, keep=0)


def test_store_that_is_there_is_never_overwritten(scene, tmp_path):
    scene.ready()
    made = backup(str(scene.store), tmp_path / "backups")
    with pytest.raises(StoreInUseError):
        restore_backup(made.path, str(scene.store), remembered=[memory(scene)])
    scene.stop()
    with pytest.raises(UsageError, match="there is a store"):
        restore_backup(made.path, str(scene.store), remembered=[memory(scene)])
    assert scene.start()["event"] == "ready"


def test_copy_of_nothing_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="no store"):
        backup(str(tmp_path / "store"), tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []


def test_handbooks_commands_do_it_for_an_operator(scene, capsys, monkeypatch):
    """The commands are taken from the handbook; the operator stands where its store/ is."""
    section = HANDBOOK.read_text().partition("## Back up and restore")[2].partition("\n## ")[0]
    said = [line.split() for line in section.splitlines() if line.startswith("strongroom ")]
    (copy,) = [words[1:] for words in said if "backup" in words]
    (bring_back,) = [words[1:] for words in said if "restore" in words]
    monkeypatch.chdir(scene.directory)
    client = scene.ready()
    shutil.copy(memory(scene).path, "memory.json")
    assert run([*copy, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["entries"] == client.checkpoint().size
    scene.kill()
    shutil.rmtree(scene.store)
    named = [word.replace("backups/NAME.store", made["backup"]) for word in bring_back]
    assert run(named) == 0
    assert scene.start()["event"] == "ready"
    client.checkpoint()
    scene.kill()
    shutil.rmtree(scene.store)
    assert run(named[: named.index("--remembered")]) == 2  # nobody says what is remembered
    shutil.copy(memory(scene).path, "memory.json")  # it has seen the second start, and the copy has not
    assert run(named) == 4
    assert "would be undone" in capsys.readouterr().err


def test_damaged_copies_and_other_files_are_not_brought_back(scene, tmp_path):
    scene.ready()
    made = backup(str(scene.store), tmp_path / "backups")
    for number, move in enumerate(
        (
            "UPDATE ledger SET entries = CAST(replace(CAST(entries AS TEXT), 'kind', 'kine') AS BLOB)",
            "DELETE FROM ledger WHERE start = 1",
            "UPDATE ledger SET hashes = zeroblob(length(hashes))",
            "DELETE FROM head",
            "DROP TABLE records",
        )
    ):
        damaged = shutil.copy(made.path, tmp_path / f"{number}.store")
        with closing(sqlite3.connect(damaged)) as database, database:
            database.execute(move)
        with pytest.raises(StoreError):
            restore_backup(damaged, str(tmp_path / "new"), remembered=[memory(scene)])
    letter = tmp_path / "letter.store"
    letter.write_text("dear operator")
    with pytest.raises(StoreError, match="no sound copy"):
        restore_backup(letter, str(tmp_path / "new"), remembered=[memory(scene)])
    assert not (tmp_path / "new").exists()
