"""What every verb of the command line has: ``--json``, ``--debug``, examples in its help, a screen, its exit code.

A verb is a function whose first argument is a :class:`~strongroom.cli.screen.Screen`. Options that several verbs share
stand here once. A password is typed or read from a file; it has no spelling in argv or the environment.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from strongroom.cli.screen import Screen
from strongroom.errors import UsageError

if TYPE_CHECKING:
    from strongroom.parties.home import Home

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PASSWORD = "Password"  # noqa: S105  what to call it
_Decorator = Callable[[_Function], _Function]
_NOWHERE = Path("/nonexistent")  # as Debian calls the home of accounts that have none


class Verb(click.Command):
    """One verb: ``--json`` and ``--debug`` come last among its options, and its help ends with examples to copy."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:  # noqa: ANN401  click's own
        settings["params"] = [
            *(settings.get("params") or ()),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the result as one JSON object on stdout."),
            click.Option(["--debug"], is_flag=True, help="After an error, print the stack trace as well."),
        ]
        super().__init__(*args, **settings)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples below the options."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class VerbGroup(click.Group):
    """A verb with several forms (``attest verify``); its help lists them in the order they were written."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the forms in the order they were written."""
        del ctx
        return list(self.commands)


def verb(*, examples: Sequence[str], name: str | None = None, group: VerbGroup | None = None) -> Callable[..., Verb]:
    """Return a decorator that makes a function ``(screen, ...)`` a verb, in ``group`` if it is one form of several."""

    def decorate(function: Callable[..., Any]) -> Verb:
        @functools.wraps(function)
        def run(*, as_json: bool, debug: bool, **options: Any) -> Any:  # noqa: ANN401  click passes what was declared
            del debug  # read by journey.main, which prints the errors
            return function(Screen(as_json=as_json), **options)

        called = name or function.__name__.strip("_").replace("_", "-")
        made: Verb = click.command(called, cls=Verb, examples=examples, no_args_is_help=False)(run)
        if group is not None:
            group.add_command(made)
        return made

    return decorate


def home_option(function: _Function) -> _Function:
    """Add ``--home``: the directory with the party's keys and what it remembers."""
    return click.option(
        "--home",
        "home",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="STRONGROOM_HOME",
        default=Path("~/.strongroom"),
        show_default=True,
        show_envvar=True,
        callback=lambda _context, _option, value: _expand(value),
        help="The party's own directory: its keys, the brokers it trusts, what it remembers of ledgers.",
    )(function)


def _expand(place: Path) -> Path:
    """Return ``place`` with the account's own directory in it.

    An account that no list knows has none, as in a container that runs under any number: nothing is there, and verbs
    that need no home still run.
    """
    try:
        return place.expanduser()
    except RuntimeError:
        return _NOWHERE / place.name


def password_option(function: _Function) -> _Function:
    """Add ``--password-file``, which becomes ``password``: a function that returns the password as bytes."""
    return _password_file(function, confirm=False)


def new_password_option(function: _Function) -> _Function:
    """Add ``--password-file`` for a verb that may set the password; on a terminal it is asked for twice."""
    return _password_file(function, confirm=True)


def broker_option(function: _Function) -> _Function:
    """Add ``--broker``: the URL of a broker that this party trusts."""
    return click.option(
        "--broker",
        "broker",
        metavar="URL",
        help="The broker to talk to; may be left out if `strongroom broker trust` named only one.",
    )(function)


def custody_password_option(function: _Function) -> _Function:
    """Add ``--custody-password-file``, which becomes ``custody_password``: see :func:`opening`."""
    return click.option(
        "--custody-password-file",
        "custody_password",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=lambda _context, _option, value: value and password_source(value),
        help="Read the password or PIN of a master key that is not the home's own from the first line of FILE.",
        metavar="FILE",
    )(function)


def opening(
    custody: str, *, home: Home, password: Callable[[], bytes], other: Callable[[], bytes] | None
) -> Callable[[], bytes]:
    """Return what opens the master key at ``custody``: ``password`` if it is the home's own, else ``other``.

    Without ``other``, the home's password is tried on another file, but never on a token, which it could lock: its PIN
    is asked for.
    """
    if custody == home.default_custody:
        return password
    if other is not None:
        return other
    if custody.startswith("file:"):
        return password
    return password_source(None, asking=lambda: asked_for(custody), instead="--custody-password-file FILE")


def asked_for(custody: str) -> str:
    """Return what to call the secret that opens ``custody`` when a person is asked for it."""
    if not custody.lower().startswith("pkcs11:"):
        return _PASSWORD
    from strongroom.envelope.custody.pkcs11_uri import TokenKey

    return f"PIN of the token {TokenKey.parse(custody).token_name}"


def password_source(
    file: Path | None,
    *,
    confirm: bool = False,
    asking: Callable[[], str] = lambda: _PASSWORD,
    instead: str = "--password-file FILE",
) -> Callable[[], bytes]:
    """Return a function that reads the password from ``file``, or asks for it where a person sits, once.

    ``asking`` says what it is called, ``instead`` how to name a file. It raises UsageError if the file cannot be read
    or is empty, or if there is nobody to ask.
    """

    @functools.cache
    def ask() -> bytes:
        if file is None:
            if not sys.stdin.isatty():
                raise UsageError(f"no terminal to ask for the {_inside(asking())}", hint=f"name a file: {instead}")
            new = confirm and asking() == _PASSWORD
            return str(click.prompt(asking(), hide_input=True, confirmation_prompt=new, err=True)).encode()
        try:
            first = file.read_bytes().partition(b"\n")[0].rstrip(b"\r")
        except OSError as error:
            raise UsageError(
                f"the password file {file} cannot be read: {error.strerror}", hint="check its name and its permissions"
            ) from error
        if not first:
            raise UsageError(f"the first line of the password file {file} is empty", hint="write the password there")
        return first

    return ask


def _password_file(function: _Function, *, confirm: bool) -> _Function:
    def source(context: click.Context, _option: click.Parameter, file: Path | None) -> Callable[[], bytes]:
        return password_source(file, confirm=confirm, asking=lambda: asked_for(_custody_of(context)))

    return click.option(
        "--password-file",
        "password",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=source,
        help="Read the password from the first line of FILE instead of asking on the terminal.",
        metavar="FILE",
    )(function)


def _custody_of(context: click.Context) -> str:
    """Return the URI of the master key that the password of this verb opens."""
    from strongroom.parties.home import Home

    named, home = context.params.get("home_custody"), context.params.get("home")
    return str(named or (Home(home).default_custody if home else ""))


def _inside(name: str) -> str:
    return "password" if name == _PASSWORD else name
