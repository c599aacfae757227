"""The cell magic says what is wrong with its line before anything is asked of the data."""

from types import SimpleNamespace

import pytest

from strongroom.errors import UsageError
from strongroom.jobs.spec import JobInput
from strongroom.notebook.magic import _run
from strongroom.notebook.session import Session, connect, parse_input
from strongroom.statements import PartyId

PARTY = PartyId(name="lab", fingerprint="0" * 32)


@pytest.mark.parametrize("line", ["1result", "class", "a.b", '"unclosed', "name --kind spark", "--session other"])
def test_a_line_that_cannot_be_is_refused_before_the_job_runs(line):
    """A job may be the last use that an owner permits."""

    class Unused(Session):
        def run(self, *_arguments, **_settings):
            raise AssertionError("a job was run")

    session = Unused(analyst=None, broker=None, host=None, purpose="p", inputs={}, directory=None)
    with pytest.raises(UsageError):
        _run(SimpleNamespace(user_ns={"session": session}), line, "select 1")


def test_home_and_platform_may_be_named_as_a_shell_names_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"{tmp_path}/platform"):
        connect(home="~/home", platform="~/platform", purpose="p", inputs={})


def test_session_says_who_asks_what_for_and_of_what():
    asked = {"trips": JobInput(owner=PARTY, location="/data", columns=("id", "fare"))}
    analyst = SimpleNamespace(key=SimpleNamespace(party=PARTY))
    session = Session(analyst=analyst, broker=None, host=None, purpose="fares", inputs=asked, directory=None)
    assert repr(session) == f"Session({PARTY}, for 'fares', of trips (id, fare))"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("data/trips", "{here}/data/trips"), ("~/trips", "{here}/home/trips"), ("s3://bucket/trips", "s3://bucket/trips")],
)
def test_place_of_a_dataset_is_one_of_the_notebooks(tmp_path, monkeypatch, written, meant):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = parse_input("trips", {"owner": str(PARTY), "columns": ["fare"], "location": written})
    assert given.location == meant.format(here=tmp_path)
