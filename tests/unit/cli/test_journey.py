"""The command line keeps its promises: journey order, --json everywhere, exit codes, no stack traces for people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from strongroom.cli import verb as verbs
from strongroom.cli.journey import INTERRUPTED, Journey, run, strongroom
from strongroom.cli.screen import Screen
from strongroom.errors import EvidenceError, LedgerError, RefusedError, StrongroomError, TransportError, UsageError

JOURNEY = ["encrypt", "permit", "register", "submit", "attest", "approve", "fetch", "revoke", "audit"]


def every_verb(group: click.Group = strongroom, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += every_verb(command, (*path, name))
        else:
            found.append((" ".join((*path, name)), command))
    return found


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A journey with one verb more, ``fail``, that raises what the test puts into the list."""
    errors: list[BaseException] = []

    @verbs.verb(name="fail", examples=())
    def fail(screen: Screen) -> None:
        screen.say("on the way")
        raise errors[0]

    class Longer(Journey):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return fail if cmd_name == "fail" else super().get_command(ctx, cmd_name)

    monkeypatch.setattr(strongroom, "__class__", Longer)
    return errors


def test_help_lists_the_verbs_in_journey_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [name for name in listed if name in JOURNEY] == JOURNEY


@pytest.mark.parametrize("words", [[], ["broker"], ["custody"]])
def test_nothing_said_shows_what_could_be_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: strongroom")
    assert "error" not in told


@pytest.mark.parametrize(("name", "command"), every_verb())
def test_every_verb_has_json_and_examples_that_name_it(name: str, command: click.Command) -> None:
    assert isinstance(command, verbs.Verb), name
    assert any("--json" in parameter.opts for parameter in command.params)
    assert command.examples
    assert all(f"strongroom {name}" in example for example in command.examples if not example.startswith(" "))


@pytest.mark.parametrize(("name", "command"), every_verb())
def test_examples_use_only_options_that_exist(name: str, command: click.Command) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    for example in command.examples:
        used = {word for word in example.split() if word.startswith("--")}
        assert used <= options, (name, used - options)


@pytest.mark.parametrize(("name", "command"), every_verb())
def test_no_option_takes_a_secret_from_argv_or_the_environment(name: str, command: click.Command) -> None:
    for parameter in command.params:
        secretive = [word for word in ("password", "secret", "token") if word in (parameter.name or "")]
        takes_a_file = parameter.opts[0].endswith("-password-file") or parameter.opts == ["--password-file"]
        assert not secretive or (takes_a_file and isinstance(parameter.type, click.Path)), name
        assert parameter.envvar in (None, "STRONGROOM_HOME"), name


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StrongroomError("it broke", hint="mend it"), 1),
        (TransportError("nobody there", hint="wait"), 1),
        (UsageError("that cannot be", hint="do this"), 2),
        (RefusedError("refused", reasons=("purpose 'x'", "expired"), hint="ask the owner"), 3),
        (EvidenceError("stale", step="report-data", hint="again"), 4),
        (LedgerError("forked", hint="stop"), 4),
    ],
)
def test_an_error_is_told_with_its_hint_and_its_own_exit_code(
    failing: list[BaseException], error: StrongroomError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(error)
    assert run(["fail"]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert f"error: {error.message}\n" in told.err
    assert f"hint: {error.hint}\n" in told.err
    assert "Traceback" not in told.err


def test_a_refusal_lists_every_reason_and_json_carries_them(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(RefusedError("the broker refused", reasons=("purpose [red]x[/red]", "policy expired")))
    assert run(["fail", "--json"]) == RefusedError.exit_code
    told = capsys.readouterr()
    assert "  - purpose [red]x[/red]\n  - policy expired\n" in told.err
    assert json.loads(told.out)["error"]["reasons"] == ["purpose [red]x[/red]", "policy expired"]
    assert json.loads(told.out)["exit_code"] == RefusedError.exit_code


def test_a_defect_is_called_one_and_shows_its_trace_only_on_request(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(ZeroDivisionError("division by zero"))
    assert run(["fail"]) == 1
    quiet = capsys.readouterr().err
    assert "error: unexpected ZeroDivisionError" in quiet
    assert "defect" in quiet
    assert "Traceback" not in quiet
    assert run(["fail", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_or_a_missing_right_is_no_defect(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(PermissionError(13, "Permission denied", "/somewhere"))
    assert run(["fail"]) == 1
    assert "error: /somewhere: permission denied\n" in capsys.readouterr().err


def test_ctrl_c_ends_in_one_line(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())
    assert run(["fail"]) == INTERRUPTED
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["encrypt"],
        ["revoke", "x"],
        ["submit", "/does/not/exist"],
        ["measure", "janitor"],
        ["demo", "--x"],
    ],
)
def test_a_mistake_in_the_words_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == UsageError.exit_code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "\nhint: " in told.err


def test_a_reader_that_goes_away_leaves_no_noise() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "strongroom", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    noise = process.stderr.read()
    process.wait(timeout=30)
    assert b"Traceback" not in noise
    assert b"Exception ignored" not in noise


def test_interrupting_the_process_itself_exits_130_without_a_trace(tmp_path: Path) -> None:
    """A person presses Ctrl-C while the password is being read."""
    fifo = tmp_path / "password"
    os.mkfifo(fifo)
    words = ["identity", "--name", "a", "--role", "owner", "--home", str(tmp_path / "h"), "--password-file", str(fifo)]
    process = subprocess.Popen(
        [sys.executable, "-m", "strongroom", *words], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    with fifo.open("wb"):  # opens once the verb waits for the password
        process.send_signal(signal.SIGINT)
        _, noise = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert noise.decode().strip() == "interrupted"
    assert not (tmp_path / "h" / "identity.json").exists()
