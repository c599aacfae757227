"""The cell magic ``%%strongroom``: the cell is a query, or a program that the owners approved, and runs as a job.

``%%strongroom [NAME] [--session SESSION] [--kind sql|python]`` puts the result's data frame into the variable NAME.
What is refused is shown as a list of reasons, and the notebook stops there.
"""

from __future__ import annotations

import argparse
import keyword
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

from strongroom.errors import RefusedError, StrongroomError, UsageError
from strongroom.notebook.display import show_refusal
from strongroom.notebook.session import Result, Session

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class CellStoppedError(Exception):
    """A cell ended without a result; what there is to say has been shown, so no stack trace follows."""

    def _render_traceback_(self) -> list[str]:
        return []


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="%%strongroom [NAME] [--session SESSION] [--kind sql|python]")


def add_magic(shell: InteractiveShell) -> None:
    """Register the cell magic."""

    def strongroom(line: str, cell: str) -> Result:
        try:
            return _run(shell, line, cell)
        except StrongroomError as error:
            _show(error)

    shell.register_magic_function(strongroom, magic_kind="cell", magic_name="strongroom")


def _run(shell: InteractiveShell, line: str, cell: str) -> Result:
    parser = _Arguments(prog="%%strongroom", add_help=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--session", default="session")
    parser.add_argument("--kind", choices=("sql", "python"), default="sql")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"the line cannot be read: {str(error).lower()}") from error
    arguments = parser.parse_args(words)
    session: Any = shell.user_ns.get(arguments.session)
    if not isinstance(session, Session):
        raise UsageError(
            f"there is no session called {arguments.session!r} in this notebook",
            hint="session = strongroom.notebook.connect(...)",
        )
    if arguments.name and (not arguments.name.isidentifier() or keyword.iskeyword(arguments.name)):
        raise UsageError(f"{arguments.name!r} is not a name for a variable")  # before the job, which may be a last use
    result = session.run(cell, kind=arguments.kind)
    if arguments.name:
        shell.user_ns[arguments.name] = result.to_pandas()
    return result


def _show(error: StrongroomError) -> NoReturn:
    from IPython.display import display

    reasons = error.reasons if isinstance(error, RefusedError) else ()
    # A message may repeat its reasons below its first line, for where there is no list of them.
    message = error.message.partition("\n")[0] if reasons else error.message
    hint = [f"hint: {error.hint}"] if error.hint else []
    plain = "\n".join([message, *(f"- {reason}" for reason in reasons), *hint])
    card = show_refusal(message, reasons=reasons, hint=error.hint)
    display({"text/html": card, "text/plain": plain}, raw=True)
    raise CellStoppedError(error.message) from None
