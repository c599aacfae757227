"""List the benchmarks, or run one: ``python -m benchmarks NAME [--json FILE] [--quick]``."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from rich.console import Console

import benchmarks
from benchmarks.harness import OUTPUT, Options, publish


def known() -> dict[str, ModuleType]:
    """Return every module here that can run, by name."""
    names = (module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_"))
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 every goal met, 1 a goal missed, 2 usage."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Strongroom against plaintext runs.")
    parser.add_argument("name", nargs="?", help="which benchmark; without it, list them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--quick", action="store_true", help="smaller data and fewer rounds: shows that it works")
    parser.add_argument("--engine", choices=("embedded", "spark", "both"), default="embedded", help="which engine")
    chosen = parser.parse_args(arguments)
    modules = known()
    if chosen.name is None:
        width = max(map(len, modules), default=0)
        for name, module in sorted(modules.items()):
            sys.stdout.write(f"{name:{width}}  {(module.__doc__ or '').splitlines()[0]}\n")
        return 0
    if chosen.name not in modules:
        sys.stderr.write(
            f"error: there is no benchmark {chosen.name!r}\nhint: choose one of {', '.join(sorted(modules))}\n"
        )
        return 2
    talk = Console(stderr=True)
    options = Options(quick=chosen.quick, engine=chosen.engine, say=lambda line: talk.print(line, highlight=False))
    report = modules[chosen.name].run(options)
    publish(report, directory=OUTPUT, json_file=chosen.json)
    return 0 if all(figure.met is not False for figure in report.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
