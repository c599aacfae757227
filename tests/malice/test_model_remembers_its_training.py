"""The move: train on others' rows and carry the rows out, not the weights, under the name of a model."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "journey"))

from learning_world import learning_world, split_by_columns

from strongroom.errors import RefusedError

pytest.importorskip("sklearn", reason="pip install -r requirements-learning.lock")
pytestmark = pytest.mark.learning


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with learning_world(tmp_path_factory.mktemp("carry"), tables=split_by_columns()) as made:
        yield made


def attempt(world, body, **policy):
    head = "import pyarrow.parquet as pq\nfrom strongroom.workload import room\ntable = room.read('findings')\n"
    program = head + dedent(body)
    with pytest.raises(RefusedError) as caught:
        world.learn(program, outputs={"model": "files"}, **policy)
    return " ".join(caught.value.reasons)


def test_rows_that_are_larger_than_a_model_may_be_stay_inside(world):
    body = """
        place = room.scratch() / "model.parquet"
        pq.write_table(table, place)
        room.save(place, "model")
    """
    assert "the owners permit at most 20000" in attempt(world, body, max_bytes=20_000)


def test_program_that_no_owner_approved_saves_nothing(world):
    program = "from strongroom.workload import room\nroom.save({'model.txt': 'rows'}, 'model')\n"
    world.permit_all(programs=[b"print('another program')"])
    with pytest.raises(RefusedError) as caught:
        world.run(world.write_job(program=program, outputs={"model": "files"}))
    assert "has digest" in " ".join(caught.value.reasons)


def test_rows_hidden_in_a_pickle_stay_inside_whatever_the_size(world):
    body = """
        import pickle
        room.save({"weights.json": pickle.dumps(table.to_pydict())}, "model")
    """
    assert "is a pickle" in attempt(world, body)
