"""List the benchmarks, or run one: ``python -m benchmarks NAME [--json FILE] [--quick] [--part PART]``."""

from __future__ import annotations

import argparse
import ast
import importlib
import signal
import sys
from pathlib import Path

from rich.console import Console

import benchmarks
from benchmarks.harness import OUTPUT, Options, publish


def known() -> dict[str, str]:
    """Return the name and the description of every benchmark, without starting to load any."""
    described = {}
    for path in sorted(Path(benchmarks.__file__).parent.glob("[a-z]*.py")):
        module = ast.parse(path.read_text())
        if any(isinstance(part, ast.FunctionDef) and part.name == "run" for part in module.body):
            described[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return described


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 every goal met, 1 a goal missed, 2 usage."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Strongroom against plaintext runs.")
    parser.add_argument("name", nargs="?", help="which benchmark; without it, list them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--quick", action="store_true", help="smaller data and fewer rounds: shows that it works")
    parser.add_argument("--part", action="append", default=[], help="of a benchmark in parts only this; repeatable")
    chosen = parser.parse_args(arguments)
    described = known()
    if chosen.name is None:
        width = max(map(len, described), default=0)
        for name, description in described.items():
            sys.stdout.write(f"{name:{width}}  {description}\n")
        return 0
    if chosen.name not in described:
        sys.stderr.write(f"error: there is no benchmark {chosen.name!r}\nhint: choose one of {', '.join(described)}\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a benchmark that is told to end tidies up
    talk = Console(stderr=True)
    module = importlib.import_module(f"benchmarks.{chosen.name}")
    if unknown := sorted(set(chosen.part) - set(getattr(module, "PARTS", ()))):
        parts = ", ".join(getattr(module, "PARTS", ())) or "no parts"
        sys.stderr.write(f"error: {chosen.name} has no part {unknown[0]!r}\nhint: it has {parts}\n")
        return 2
    say = lambda line: talk.print(line, highlight=False)  # noqa: E731
    report = module.run(Options(quick=chosen.quick, say=say, parts=tuple(chosen.part)))
    publish(report, directory=OUTPUT, json_file=chosen.json)
    return 0 if all(figure.met is not False for figure in report.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
