"""Write the reference pages that the code itself knows: the command line and the errors.

``python -m strongroom.cli.reference DIRECTORY`` writes them; with ``--check`` it writes nothing and fails if a page is
not what the code says.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

import strongroom as package
from strongroom.cli.journey import strongroom
from strongroom.errors import StrongroomError

_WIDTH = 100
_GENERATED = "<!-- Written by scripts/docs from the code; change the code, not this page. -->\n"


def command_line_page() -> str:
    """Return ``cli.md``: the help of every verb, in journey order."""
    parts = [
        _GENERATED,
        "# The command line\n",
        "Results go to stdout, talk to stderr; with `--json`, stdout carries exactly one JSON object.",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a policy, 4 not trusted",
        "([errors and exit codes](errors-and-exit-codes.md)).\n",
    ]
    for path, command in _commands(strongroom, ("strongroom",)):
        context = _context(path)
        parts.append(f"\n{'#' * min(1 + len(path), 4)} {' '.join(path)}\n")
        parts.append(f"```text\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


def errors_page() -> str:
    """Return ``errors-and-exit-codes.md``: every error a room may raise, whose fault it is and how the process ends."""
    _import_every_room()
    parts = [
        _GENERATED,
        "# Errors and exit codes\n",
        "Every error is printed as `error:` (what was got, what was expected) and `hint:` (what to do), on stderr.",
        "A refusal lists every reason. With `--json`, stdout carries",
        '`{"error": {"kind", "message", "hint", ...}, "exit_code"}`.\n',
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | failed: damaged or missing data, a malformed document, nobody at the other end |",
        "| 2 | usage: the request itself cannot be |",
        "| 3 | refused: a policy said no |",
        "| 4 | not trusted: evidence or a ledger did not hold |",
        "| 130 | interrupted with Ctrl-C |\n",
        "| error | raised by | exit code | meaning |",
        "|---|---|---|---|",
    ]
    for depth, error in _tree(StrongroomError, 0):
        room = error.__module__.removeprefix("strongroom.").split(".")[0]
        summary = (error.__doc__ or "").strip().splitlines()[0]
        parts.append(f"| {'&nbsp;&nbsp;' * depth}`{error.__name__}` | {room} | {error.exit_code} | {summary} |")
    return "\n".join(parts) + "\n"


def pages() -> Mapping[str, str]:
    """Return every generated page by file name."""
    return {"cli.md": command_line_page(), "errors-and-exit-codes.md": errors_page()}


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--check", is_flag=True, help="Write nothing; fail if a page is stale.")
def main(directory: Path, *, check: bool) -> None:
    """Write the generated reference pages into DIRECTORY."""
    stale = []
    for name, text in pages().items():
        target = directory / name
        if target.is_file() and target.read_text() == text:
            continue
        stale.append(name)
        if not check:
            target.write_text(text)
            click.echo(f"wrote {target}", err=True)
    if check and stale:
        click.echo(f"stale: {', '.join(stale)}; run scripts/docs", err=True)
        sys.exit(1)


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    context = _context(path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


def _context(path: tuple[str, ...]) -> click.Context:
    """Return a context whose usage line reads like the real one, at a width that no terminal changes."""
    context: click.Context | None = None
    for name in path:
        context = click.Context(
            strongroom,
            info_name=name,
            parent=context,
            terminal_width=_WIDTH,
            max_content_width=_WIDTH,
            help_option_names=["-h", "--help"],
        )
    assert context is not None  # noqa: S101  a path has at least one name
    return context


def _tree(error: type[StrongroomError], depth: int) -> Iterator[tuple[int, type[StrongroomError]]]:
    private = error.__name__.startswith("_")  # what derives from it stands in its place
    if not private:
        yield depth, error
    for child in sorted(error.__subclasses__(), key=lambda found: (found.__module__, found.__name__)):
        if child.__module__.startswith("strongroom."):
            yield from _tree(child, depth if private else depth + 1)


def _import_every_room() -> None:
    """Import every module, so that each error has been defined; entry points of processes are left out."""
    for module in pkgutil.walk_packages(package.__path__, prefix="strongroom."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


if __name__ == "__main__":
    main()
