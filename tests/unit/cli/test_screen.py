"""Results go to stdout, talk to stderr, and neither is coloured or moving unless a person watches."""

from __future__ import annotations

import json

import pytest

from strongroom.cli.screen import Screen
from strongroom.cli.submit import tell_event
from strongroom.errors import RefusedError


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


def test_what_a_job_says_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    tell_event(Screen(as_json=True), "driver-attested", {"seconds": 0.02267436199963413, "simulated": True})
    tell_event(Screen(as_json=True), "driver-attested", {"seconds": 1.0, "simulated": False})
    told = capsys.readouterr()
    assert told.err == "driver attested: 0.023 s, simulated\ndriver attested: 1.000 s, not simulated\n"


def test_long_lines_are_not_broken_so_that_they_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    digest = "sha384:" + "0" * 300
    Screen(as_json=False).result({}, text=(digest,))
    assert capsys.readouterr().out == digest + "\n"


def test_numbers_in_tables_stand_at_the_right_with_the_digits_that_count(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    rows = [("9E", 16518, 15.264136093958106, True), ("AA", 7, None, False), ("B6", 50078, 123456.789, True)]
    screen.result({}, text=[screen.table("t", ("carrier", "n", "mean", "fog"), rows)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        "carrier      n       mean  fog",
        "9E       16518      15.26  True",
        "AA           7             False",
        "B6       50078  123,456.8  True",
    ]


def test_reason_that_several_owners_share_is_told_once_to_people_and_whole_to_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reasons = (
        "flights: purpose 'x' is not permitted",
        "weather: purpose 'x' is not permitted",
        "weather: expired",
        "no: Y",
    )
    Screen(as_json=True).fail(RefusedError("refused", reasons=reasons))
    told = capsys.readouterr()
    assert told.err.splitlines()[1:] == [
        "  - flights, weather: purpose 'x' is not permitted",
        "  - weather: expired",
        "  - no: Y",
    ]
    assert json.loads(told.out)["error"]["reasons"] == list(reasons)
