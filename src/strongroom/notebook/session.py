"""Run an analyst's cells as jobs: sign, submit, attest, follow and fetch, one call for each (spec/3-job.md).

A session holds what every job of a notebook has in common: who asks, for which purpose, of which datasets.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from strongroom.broker.client import BrokerClient
from strongroom.errors import UsageError
from strongroom.jobs.launch import JobHost, TeeHost
from strongroom.jobs.spec import JobInput, load_job
from strongroom.jobs.template import job_template
from strongroom.notebook.display import show_facts, show_table
from strongroom.parties.analyst import Analyst
from strongroom.parties.following import JobReport, OnEvent
from strongroom.parties.queries import refuse_query
from strongroom.statements import PartyId

if TYPE_CHECKING:
    import pandas as pd

OUTPUT = "result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a job gave: its rows as an Arrow table, and which job it was."""

    table: pa.Table
    report: JobReport
    name: str
    seconds: float

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame."""
        return self.table.to_pandas()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Result({self.name!r}, job={self.report.job!r}, rows={len(self):,}, columns={self.table.column_names})"

    def _repr_html_(self) -> str:
        facts = (f"{len(self):,} rows", f"{self.seconds:.1f} s", f"job {self.report.job[:12]}…")
        return show_table(self.table, title=self.name, facts=facts, simulated=self.report.simulated)


@dataclass(slots=True, repr=False)
class Session:
    """An analyst at one broker, with a purpose and the datasets that it asks of.

    ``inputs`` name the columns that may be asked for; a cell asks for those that it mentions. ``directory`` holds
    the cells and their sealed results; by default one that goes when the session is closed.
    """

    analyst: Analyst
    broker: BrokerClient
    host: TeeHost | JobHost
    purpose: str
    inputs: Mapping[str, JobInput]
    directory: Path | None = None
    on_event: OnEvent = lambda _name, _facts: None
    _jobs: int = 0
    _own: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)

    def __repr__(self) -> str:
        asked = ", ".join(f"{name} ({', '.join(one.columns)})" for name, one in self.inputs.items())
        return f"Session({self.analyst.key.party}, for {self.purpose!r}, of {asked})"

    def sql(self, text: str) -> Result:
        """Return the result of a SQL query over the inputs; raise RefusedError with every reason of every owner."""
        return self.run(text, kind="sql")

    def run(self, program: str, *, kind: str = "sql", output: str = OUTPUT) -> Result:
        """Return the table that ``program`` writes as ``output``; an ``sql`` program is one query."""
        if not self.inputs:
            raise UsageError("the session has no inputs", hint="name the datasets that you ask of")
        started = time.monotonic()
        job = self._write_job(program, kind=kind, output=output)
        refuse_query(load_job(job), engine="embedded")
        place = job.parent / "work"
        report = self.analyst.run(
            job, broker=self.broker, host=self.host, engine="embedded", directory=place, on_event=self.on_event
        )
        location = next(Path(one["directory"]) for one in report.outputs if one["name"] == output)
        table = self.analyst.fetch(broker=self.broker, digest=report.digest, output=output, location=location)
        return Result(table=table, report=report, name=job.stem, seconds=time.monotonic() - started)

    def close(self) -> None:
        """End the connection to the broker; a directory that is the session's own goes."""
        self.broker.close()
        if self._own is not None:
            self._own.cleanup()
            self._own = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        facts = {
            "analyst": str(self.analyst.key.party),
            "purpose": self.purpose,
            "broker": self.broker.url,
            **{f"dataset {name}": f"{len(one.columns)} columns, {one.owner}" for name, one in self.inputs.items()},
        }
        return show_facts("Strongroom session", facts, simulated=self.broker.result.simulated)

    def _folder(self) -> Path:
        if self.directory is not None:
            return self.directory
        if self._own is None:
            self._own = tempfile.TemporaryDirectory(prefix="strongroom-notebook-")
        return Path(self._own.name)

    def _write_job(self, program: str, *, kind: str, output: str) -> Path:
        self._jobs += 1
        name = f"cell-{self._jobs}"
        place = self._folder() / name
        place.mkdir(parents=True, exist_ok=True)
        source = place / f"{name}.{'sql' if kind == 'sql' else 'py'}"
        source.write_text(program)
        text = job_template(
            name=name,
            kind=kind,
            purpose=self.purpose,
            program=source.name,
            inputs=choose_inputs(self.inputs, program, kind=kind),
            recipients=[self.analyst.key.party],
            output=output,
        )
        job = place / f"{name}.toml"
        job.write_text(text)
        return job


def choose_inputs(inputs: Mapping[str, JobInput], program: str, *, kind: str) -> dict[str, JobInput]:
    """Return the inputs that a cell mentions, each with the columns that it mentions; a program gets all of them."""
    if kind != "sql":
        return dict(inputs)
    words = {word.casefold() for word in re.findall(r"\w+", program)}
    chosen = {}
    for name, given in inputs.items():
        if name.casefold() not in words:
            continue
        columns = tuple(one for one in given.columns if one.casefold() in words) or given.columns[:1]
        chosen[name] = JobInput(owner=given.owner, columns=columns, location=given.location)
    if not chosen:
        raise UsageError("the query names no dataset of this session", hint=f"there are {', '.join(inputs)}")
    return chosen


def connect(
    *,
    home: Path,
    platform: Path,
    purpose: str,
    inputs: Mapping[str, Mapping[str, Any]],
    broker: str | None = None,
    password: Callable[[], bytes] = lambda: getpass("password or PIN of the master key: ").encode(),
) -> Session:
    """Return a session for the analyst whose home this is; the broker is attested first.

    ``inputs`` maps datasets to ``owner``, ``location`` and ``columns``. ``platform`` is this machine's simulated TEE.
    """
    from strongroom.attestation.simulated.platform import SimulatedPlatform
    from strongroom.parties.home import Home

    host = SimulatedPlatform.found_in(Path(platform).expanduser())
    place = Home(Path(home).expanduser())
    trusted = place.broker(broker)
    keys = place.open_keys(password)
    analyst = Analyst(keys.signing, keys.kem, trust=trusted.trust(), memory=place.memory(trusted))
    client = analyst.attest_broker(trusted.url)
    client.enrol_member(place.identity_statement())
    return Session(
        analyst=analyst,
        broker=client,
        host=host,
        purpose=purpose,
        inputs={name: parse_input(name, given) for name, given in inputs.items()},
    )


def parse_input(name: str, given: Mapping[str, Any]) -> JobInput:
    """Return an input as a person wrote it in a cell; raise UsageError if something is missing.

    A path is one of the notebook's, not of the directory in which its cells become jobs.
    """
    try:
        columns: Sequence[str] = given["columns"]
        location = str(given["location"])
        if "://" not in location:
            location = str(Path.cwd() / Path(location).expanduser())
        return JobInput(owner=PartyId.parse(str(given["owner"])), columns=tuple(columns), location=location)
    except KeyError as error:
        raise UsageError(f"dataset {name!r} has no {error}", hint="give owner, location and columns") from error
