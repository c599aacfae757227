"""Results go to stdout, talk to stderr, and neither is coloured or moving unless a person watches."""

from __future__ import annotations

import json

import pytest

from strongroom.cli.screen import Screen


def test_json_is_one_object_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.say("working")
    screen.result({"a": 1, "ü": ["x"]}, text=("for people",))
    told = capsys.readouterr()
    assert json.loads(told.out) == {"a": 1, "ü": ["x"]}
    assert told.err == "working\n"


def test_text_from_outside_cannot_style_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    screen.say("[bold]job[/bold] \x1b[31mred \u202eabc\r")
    screen.result({}, text=("[link=x]y[/link]", screen.table("[i]t[/i]", ("[b]c[/b]",), [("[red]cell[/red]",)])))
    told = capsys.readouterr()
    assert "[bold]job[/bold]" in told.err
    assert "[link=x]y[/link]" in told.out
    assert "[red]cell[/red]" in told.out
    assert told.err == "[bold]job[/bold] \\x1b[31mred \\u202eabc\\r\n"


def test_no_colour_and_no_bar_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    screen.warn_simulated()
    with screen.progress("encrypt") as advance:
        advance(5, 10)
    told = capsys.readouterr()
    assert told.err == "simulated TEE: it behaves like the real one and protects nothing\n"


def test_long_lines_are_not_broken_so_that_they_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    digest = "sha384:" + "0" * 300
    Screen(as_json=False).result({}, text=(digest,))
    assert capsys.readouterr().out == digest + "\n"
