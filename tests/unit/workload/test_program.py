"""Whatever a program prints or raises, nothing of the data leaves with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from strongroom.errors import StrongroomError, UsageError
from strongroom.jobs.spec import JobOutput
from strongroom.workload.inside import NoSuchInputError, NoSuchOutputError, Room, WrongOutputError
from strongroom.workload.program import ProgramError, run_program

SECRET = "Zebrafinch earns 100"
FORGED_PLACE = """
from strongroom.workload import program
code = compile('from strongroom.errors import UsageError; raise UsageError(said)', program.__file__, 'exec')
exec(code, {'said': rows[0]})
"""
FORGED_KIND = """
from strongroom.errors import UsageError
raise type('UsageError', (UsageError,), {'__doc__': rows[0], '__module__': 'strongroom.errors'})('x')
"""
OUTPUTS = {"result": JobOutput(recipients=())}


class Engine:
    session = None

    def read(self, name):
        return [SECRET]

    def sql(self, text):
        return [SECRET]

    def write(self, frame, name):
        return (name, frame)


@pytest.fixture
def room():
    outputs = []
    made = Room(Engine(), inputs=["people"], outputs=OUTPUTS, purpose="p", on_output=outputs.append)
    made.written = outputs
    return made


def run(text, room):
    run_program(("from strongroom.workload import room\nrows = room.read('people')\n" + text).encode(), room)


LOUD = """
import os, sys, subprocess, warnings, logging
print(rows)
print(rows, file=sys.stderr)
os.write(1, rows[0].encode())
os.write(2, rows[0].encode())
subprocess.run(["echo", rows[0]])
warnings.warn(rows[0])
logging.error(rows[0])
room.write(rows, "result")
"""
INSIDE = """
import sys
sys.path.insert(0, {folder!r})
from test_program import Engine, LOUD, OUTPUTS, Room, run
written = []
run(LOUD, Room(Engine(), inputs=["people"], outputs=OUTPUTS, purpose="p", on_output=written.append))
print(len(written))
"""


def test_program_that_prints_everywhere_is_not_heard():
    inside = INSIDE.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


@pytest.mark.parametrize(
    "raises",
    [
        "raise ValueError(rows[0])",
        "raise SystemExit(rows[0])",
        "raise KeyboardInterrupt(rows[0])",
        "{}[rows[0]]",
        "int(rows[0])",
        "raise type(rows[0].replace(' ', ''), (Exception,), {})()",
        "from strongroom.errors import StrongroomError\nraise StrongroomError(rows[0], hint=rows[0])",
        "from strongroom.errors import RefusedError\nraise RefusedError('x', reasons=(rows[0],))",
        "from strongroom.errors import UsageError\nraise ValueError(1) from UsageError(rows[0])",
        "raise ExceptionGroup(rows[0], [ValueError(rows[0])])",
        "room.read(rows[0])",
        "room.write(None, rows[0])",
        "room.open(rows[0])",
        "from strongroom.statements import PartyId\nPartyId.parse(rows[0])",
        FORGED_PLACE,
        "from strongroom.errors import UsageError\nUsageError.__doc__ = rows[0]\nraise UsageError('x')",
        FORGED_KIND,
    ],
)
def test_program_that_raises_data_tells_its_line_and_no_more(room, raises, monkeypatch):
    monkeypatch.setattr(UsageError, "__doc__", UsageError.__doc__)  # one of these changes it
    with pytest.raises(StrongroomError) as failed:
        run(raises, room)
    told = failed.value.message + failed.value.hint + repr(getattr(failed.value, "reasons", ()))
    assert SECRET not in told
    assert "Zebrafinch" not in told
    assert "of the program" in failed.value.message


@pytest.mark.parametrize(
    ("asks", "kind", "meaning"),
    [
        ("room.read('persons')", NoSuchInputError, "asked for an input that its job does not have"),
        ("room.write(None, 'persons')", NoSuchOutputError, "wrote an output that its job does not have"),
        ("room.save({}, 'result')", WrongOutputError, "use room.write"),
    ],
)
def test_what_strongroom_refuses_a_program_reaches_the_analyst_by_its_meaning(room, asks, kind, meaning):
    with pytest.raises(kind, match=rf"line \d+ of the program: the program .*{meaning}") as failed:
        run(asks, room)
    assert "persons" not in failed.value.message
    assert failed.value.exit_code == 2


def test_program_that_is_no_python_says_where(room):
    with pytest.raises(ProgramError, match="line 3"):
        run("this is not Python", room)


def test_program_that_leaves_an_output_unwritten_is_an_error(room):
    with pytest.raises(UsageError, match="result"):
        run("pass", room)
