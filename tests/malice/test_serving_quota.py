"""A caller asks for more than its quota: at once, by another endpoint, and by one that was started anew."""

import pytest
from serving_world import SIMPLE, ask, simple_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with simple_world(tmp_path_factory.mktemp("quota"), quotas=((6, 86_400), (1000, 60))) as made:
        yield made


def allowed(world):
    """How many answers the ledger says that the partner was given."""
    name = str(world.partner.key.party)
    closed = [one.facts["closed"] for one in world.entries("answers") if "closed" in one.facts]
    return sum(one["callers"].get(name, 0) for one in closed)


def test_quota_is_kept_whoever_counts(world):
    job = world.serve_job("simple", program=SIMPLE)
    first = world.serve(job)
    try:
        with world.asking(first) as client:
            assert ask(client, [[1.0, 0.0]] * 4).status_code == 200
            assert ask(client, [[1.0, 0.0]] * 3).status_code == 429, "seven are more than six, and none is given"
            refused = ask(client, [[1.0, 0.0]] * 3)
            assert int(refused.headers["retry-after"]) > 60
            assert "is used up" in refused.json()["reasons"][0]
            assert ask(client, [[1.0, 0.0]] * 1).status_code == 200, "what is left can still be asked"
        with world.asking(first, by=world.analyst) as client:
            assert ask(client, [[1.0, 0.0]] * 4).status_code == 200, "each caller has its own"
    finally:
        first.stop()
    assert allowed(world) == 5
    second = world.serve(world.serve_job("simple", program=SIMPLE))
    try:
        with world.asking(second) as client:
            assert ask(client, [[1.0, 0.0]] * 2).status_code == 429, "a new endpoint has no new quota"
            assert ask(client, [[1.0, 0.0]]).status_code == 200
            assert ask(client, [[1.0, 0.0]]).status_code == 429
    finally:
        second.stop()
    assert allowed(world) == 6
