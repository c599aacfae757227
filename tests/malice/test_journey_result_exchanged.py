"""The host changes a released result before its recipient fetches it."""

import shutil
from pathlib import Path

import pytest
from small_world import QUERY, small_world

from strongroom.errors import StrongroomError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A world with two finished jobs and where their results lie."""
    with small_world(tmp_path_factory.mktemp("results"), lease=30) as world:
        first = world.run()
        second = world.run(world.write_job("other", program=QUERY.replace("sum(amount)", "avg(amount)")))
        places = [Path(report.outputs[0]["directory"]) for report in (first, second)]
        kept = [shutil.copytree(place, place.with_name(f"kept-{number}")) for number, place in enumerate(places)]
        yield world, first, places[0], kept


@pytest.fixture(autouse=True)
def put_back(results):
    yield
    _, _, place, kept = results
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(kept[0], place)


def flip(place, _other):
    path = next(place.glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(place, _other):
    path = next(place.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1])


def take_away(place, _other):
    shutil.rmtree(place)


def add(place, other):
    shutil.copy(next(other.glob("*.parquet")), place / "part-9.parquet")


def exchange_all(place, other):
    shutil.rmtree(place)
    shutil.copytree(other, place)


def exchange_files(place, other):
    mine = next(place.glob("*.parquet"))
    shutil.copy(next(other.glob("*.parquet")), mine)


def exchange_manifest(place, other):
    shutil.copy(other / "manifest.json", place / "manifest.json")


@pytest.mark.parametrize(
    "change",
    [flip, cut, take_away, exchange_all, exchange_files, exchange_manifest],
    ids=lambda change: change.__name__,
)
def test_changed_result_is_not_taken_for_the_one_that_was_released(results, change):
    world, report, place, kept = results
    change(place, kept[1])
    with pytest.raises(StrongroomError):
        world.fetch(report)


def test_stranger_among_the_files_of_a_result_is_not_read(results):
    world, report, place, kept = results
    add(place, kept[1])
    with pytest.raises(StrongroomError, match="part-9"):
        world.fetch(report)
