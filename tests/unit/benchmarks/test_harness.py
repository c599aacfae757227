"""Benchmarks compare like with like, and publish figures in one form."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks._clusters_found import SHUFFLES, Found, draw
from benchmarks.harness import Cost, Figure, Options, Report, Runs, as_document, interleave, publish, spend

ROOT = Path(__file__).parents[3]


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def report(figures):
    return Report(
        name="sample", title="A sample", figures=figures, notes=["a note"], draw=lambda canvas: canvas.subplots()
    )


@pytest.mark.parametrize(
    ("figure", "goal", "met"),
    [
        (Figure(name="a", value=1.1, unit="x", at_most=1.1), "<= 1.1", True),
        (Figure(name="a", value=1.2, unit="x", at_most=1.1), "<= 1.1", False),
        (Figure(name="a", value=2.0, unit="GB/s", at_least=1.9), ">= 1.9", True),
        (Figure(name="a", value=1.0, unit="GB/s", at_least=1.9), ">= 1.9", False),
        (Figure(name="a", value=1.0, unit="s"), None, None),
    ],
)
def test_a_goal_is_met_or_missed_or_absent(figure, goal, met):
    assert (figure.goal, figure.met) == (goal, met)


def test_works_take_turns_and_the_warm_up_does_not_count():
    order = []
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    runs = interleave(works, rounds=3, warm_up=1, tidy=lambda: order.append("tidy"))
    assert [name for name in order if name != "tidy"] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert order[::2] == ["tidy"] * 8
    assert {name: len(costs) for name, costs in runs.costs.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_taken_within_rounds():
    plain = [Cost(cpu=1, wall=1), Cost(cpu=10, wall=10), Cost(cpu=100, wall=100)]
    other = [Cost(cpu=2, wall=3), Cost(cpu=20, wall=30), Cost(cpu=100, wall=100)]
    runs = Runs({"plain": plain, "encrypted": other})
    assert runs.ratio("encrypted", to="plain") == 2
    assert runs.wall_ratio("encrypted", to="plain") == 3
    assert runs.cpu("plain") == 10


def test_cpu_seconds_include_this_process_and_its_children():
    assert spend(lambda: burn(0.1)).cpu >= 0.09
    program = "import time\nwhile time.process_time() < 0.2: pass"
    cost = spend(lambda: subprocess.run([sys.executable, "-c", program], check=True, timeout=60))
    assert cost.cpu >= 0.19


def test_a_report_is_written_as_json_and_as_a_plot(tmp_path, capsys):
    figures = [Figure(name="ratio", value=1.04567, unit="x", at_most=1.1), Figure(name="time", value=2, unit="s")]
    publish(report(figures), directory=tmp_path / "out", json_file=tmp_path / "elsewhere" / "sample.json")
    written = json.loads((tmp_path / "elsewhere" / "sample.json").read_text())
    assert written == json.loads((tmp_path / "out" / "sample.json").read_text()) == as_document(report(figures))
    assert set(written) == {"name", "machine", "figures", "notes"}
    assert written["figures"] == [
        {"name": "ratio", "value": 1.0457, "unit": "x", "goal": "<= 1.1", "met": True},
        {"name": "time", "value": 2, "unit": "s", "goal": None, "met": None},
    ]
    assert (tmp_path / "out" / "sample.png").read_bytes().startswith(b"\x89PNG")
    assert "ratio" in capsys.readouterr().out


def test_without_a_name_the_benchmarks_are_listed():
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert {"scan", "tpch", "container", "spark"} <= set(names)
    assert all(len(line.split()) > 3 for line in listed.stdout.splitlines())


def test_an_unknown_benchmark_is_a_usage_error_that_names_the_known_ones():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 2
    assert "hint: choose one of" in run.stderr


def test_the_container_benchmark_runs(monkeypatch, tmp_path):
    from benchmarks import container

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = container.run(Options(quick=True, say=lambda line: None))
    values = {figure.name: figure.value for figure in found.figures}
    assert 0 < values["container, seal"] < values["plain file, read"]
    assert list((tmp_path / "strongroom" / "benchmarks").iterdir()) == []


def test_an_unknown_part_is_a_usage_error_that_names_the_known_ones(capsys):
    assert main(["clusters", "--part", "nothing"]) == 2
    assert "hint: it has hosts, pods, pod-crowds, crowds, shuffles" in capsys.readouterr().err
    assert main(["scan", "--part", "hosts"]) == 2
    assert "hint: it has no parts" in capsys.readouterr().err


def test_picture_of_a_cluster_has_a_panel_for_each_part_that_was_measured():
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = Found()
    found.seconds |= {f"{hosts} {side}": [2.0] for hosts in (1, 2) for side in ("plain", "lent: first task")}
    sides = ("clear", "wire")
    found.shuffles = Runs({f"{side} {query}": [Cost(cpu=1, wall=1)] for side in sides for query in SHUFFLES})
    canvas = plt.figure()
    draw(canvas, found)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in canvas.axes] == [
        "Spark really started",
        "TPC-H with the most shuffle",
    ]
    plt.close(canvas)
