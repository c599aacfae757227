"""The group of verbs, listed in the order of the journey, and the one place where errors become exit codes.

A person's mistake ends in ``error:`` and ``hint:``, never in a stack trace.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from strongroom import __version__
from strongroom.cli.screen import Screen
from strongroom.errors import StrongroomError, UsageError

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("The journey", ("encrypt", "permit", "register", "submit", "attest", "approve", "fetch", "revoke", "audit")),
    (
        "Around it",
        (
            "serve",
            "proxy",
            "broker",
            "unseal",
            "witness",
            "worker",
            "job",
            "demo",
            "inspect",
            "measure",
            "identity",
            "custody",
        ),
    ),
)
INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended
_GAP = 2


class Journey(click.Group):
    """All verbs; each is imported when it is first asked for, so that ``--help`` of one does not load every room."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in journey order."""
        del ctx
        return [name for _, names in SECTIONS for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb from the file that bears its name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"strongroom.cli.{cmd_name}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs, section by section."""
        widest = max(len(name) for name in self.list_commands(ctx))
        for title, names in SECTIONS:
            with formatter.section(title):
                rows = []
                for name in names:
                    command = self.get_command(ctx, name)
                    limit = formatter.width - formatter.current_indent - widest - _GAP
                    rows.append((f"{name:{widest}}", command.get_short_help_str(limit) if command else ""))
                formatter.write_dl(rows, col_spacing=_GAP)


@click.group(cls=Journey, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="strongroom")
def strongroom() -> None:
    """Let several owners' confidential data be worked on together, inside attested TEEs, and only as all permitted.

    The verbs stand in the order of the journey: an owner encrypts, permits and registers; an analyst submits and
    fetches; anyone concerned audits. `strongroom demo` plays all of it on this machine.
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line on ``argv`` (by default the process's own) and exit with the code it earned."""
    words = list(sys.argv[1:] if argv is None else argv)
    sys.exit(run(words))


def run(words: Sequence[str]) -> int:
    """Run the command line on ``words`` and return 0 done, 1 failed, 2 usage, 3 refused, 4 not trusted."""
    screen = Screen(as_json="--json" in words)
    try:
        returned = strongroom.main(args=list(words), prog_name="strongroom", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return UsageError.exit_code
    except click.Abort:  # click's word for Ctrl-C and Ctrl-D
        screen.say("interrupted")
        return INTERRUPTED
    except KeyboardInterrupt:
        screen.say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; without this, Python complains once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  the last place before the person
        told = _explain(error)
        screen.fail(told)
        if "--debug" in words:
            traceback.print_exception(error, file=sys.stderr)
        return told.exit_code
    return returned if isinstance(returned, int) else 0


def _explain(error: Exception) -> StrongroomError:
    """Return what to tell the person about any exception."""
    if isinstance(error, StrongroomError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        about = context.command_path if context is not None else "strongroom"
        return UsageError(_lowered(error.format_message()), hint=f"`{about} --help` shows how it is used")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return StrongroomError(
            f"{where}{error.strerror.lower()}", hint="check the path, its permissions and the space left"
        )
    return StrongroomError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a defect of Strongroom, not your mistake; the same command with --debug prints the stack trace",
    )


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")
