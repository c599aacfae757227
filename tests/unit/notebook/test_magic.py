"""The cell magic says what is wrong with its line before anything is asked of the data."""

from types import SimpleNamespace

import pytest

from strongroom.errors import UsageError
from strongroom.notebook.magic import _run
from strongroom.notebook.session import Session


@pytest.mark.parametrize("line", ["1result", "class", "a.b", '"unclosed', "name --kind spark", "--session other"])
def test_a_line_that_cannot_be_is_refused_before_the_job_runs(line):
    """A job may be the last use that an owner permits."""

    class Unused(Session):
        def run(self, *_arguments, **_settings):
            raise AssertionError("a job was run")

    session = Unused(analyst=None, broker=None, host=None, purpose="p", inputs={}, directory=None)
    with pytest.raises(UsageError):
        _run(SimpleNamespace(user_ns={"session": session}), line, "select 1")
