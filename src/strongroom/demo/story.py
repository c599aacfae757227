"""Tell the journey by running it: every step is the production code path, only the TEE is simulated.

The narrator sees each step begin and end with its seconds; nothing here prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from strongroom.demo.data import OWNERS, lay_out
from strongroom.demo.world import PROGRAMS, WORKERS, OwnerHome, World
from strongroom.envelope.custody import create_custody
from strongroom.ledger.export import ExportReport, check_export
from strongroom.parties.following import JobReport

_SPARK = 6  # the step in which it starts
COLUMNS = {
    "flights": ("carrier", "origin", "dest", "tailnum", "month", "day", "hour", "distance", "dep_delay"),
    "weather": ("origin", "month", "day", "hour", "temp", "wind_speed", "precip", "visib", "pressure"),
    "planes": ("tailnum", "year", "seats", "engines"),
}


class Narrator(Protocol):
    """Whoever tells a person what happens."""

    def step(self, number: int, title: str) -> Any:  # noqa: ANN401  a context manager
        """Begin a step of the journey; its context ends with the step."""
        ...

    def note(self, text: str) -> None:
        """Say one thing that just happened."""
        ...

    def progress(self, name: str, done: int, total: int) -> None:
        """Say how far a long piece of work is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """A named step and its seconds."""

    name: str
    seconds: float


@dataclass(slots=True)
class Story:
    """The demo's journey in one world; ``engine`` is ``spark`` or ``embedded``."""

    world: World
    engine: str
    narrator: Narrator
    steps: list[StepTime] = field(default_factory=list)
    results: dict[str, pa.Table] = field(default_factory=dict)
    report: JobReport | None = None

    @property
    def programs(self) -> tuple[bytes, bytes]:
        """Return the two approved programs: the analysis, and the long one that is stopped."""
        suffix = "py" if self.engine == "spark" else "sql"
        return (PROGRAMS / f"delays.{suffix}").read_bytes(), (PROGRAMS / f"watch.{suffix}").read_bytes()

    def tell(self) -> None:
        """Walk the seven steps and the audit."""
        with self._step(0, "Owners encrypt at home, sign a policy, attest the broker and enrol"):
            self._prepare_owners()
            self._enrol()
        self._run_main_job()
        with self._step(8, "Anyone concerned verifies the ledger"):
            with self._timed("audit"):
                checked = self.audit()
            self.narrator.note(f"{checked.size} entries, every one under the signed checkpoint: verified offline")

    def _prepare_owners(self) -> None:
        with self._timed("encrypt"):
            for name, home in self.world.owners.items():
                table = OWNERS[name]
                source = lay_out(table, home.directory)
                custody = create_custody(f"file:{home.directory / 'master.key'}", password=home.reveal_password)
                manifest = home.owner.encrypt(
                    [source],
                    home.encrypted,
                    dataset=home.dataset,
                    version=1,
                    custody=custody,
                    nulls=("", "NA"),
                    progress=partial(self.narrator.progress, f"encrypt {table}"),
                )
                rows = sum(file.rows or 0 for file in manifest.files)
                source.unlink()  # the plaintext stays with its owner; the demo's copy is not needed any more
                self.narrator.note(f"{name} encrypted {rows:,} rows of {table}, each column under its own key")

    def _enrol(self) -> None:
        with self._timed("broker-start"):
            self.world.start_broker()
        with self._timed("enrol"):
            self.world.enrol_everyone()
            for name, home in self.world.owners.items():
                self._register(home)
                self.narrator.note(f"{name} attested the broker and enrolled {home.dataset} with its policy")

    def _register(self, home: OwnerHome) -> None:
        if home.broker is None:
            raise RuntimeError("enrol first")
        policy = home.owner.permit(self.world.policy_toml(home, programs=self.programs, sql=False))
        home.owner.register(
            home.encrypted,
            broker=home.broker,
            policy=policy,
            password=home.reveal_password,
        )

    def _run_main_job(self) -> None:
        world = self.world
        job = self.write_job("delays")
        broker = world.analyst.attest_broker(world.broker_url)
        directory = world.directory / "jobs" / "delays"
        with self._step(1, "The analyst signs a job and submits it; the driver starts, without a secret"):
            submitted = world.analyst.submit(job, broker=broker)
            launcher = world.analyst.launch(
                submitted, host=world.platform, engine=self.engine, directory=directory, on_event=self._hear_host
            )
            self.narrator.note(f"job {submitted.ticket.job_id}")
        try:
            with self._step(2, "The client attests the driver, and only then hands over job and ticket"):
                channel = world.analyst.attest_driver(submitted, launcher.start_address)
                world.analyst.hand_over(submitted, channel, broker=broker)
                self.narrator.note(f"simulated TEE, measurement {_short(channel.peer.measurement)}")  # type: ignore[union-attr]
            with self._steps_inside() as on_event:
                self.report = world.analyst.follow(submitted, channel, on_event=on_event)
        finally:
            launcher.stop()
        with self._timed("fetch"):
            for output in self.report.outputs:
                self.results[output["name"]] = world.analyst.fetch(
                    broker=broker,
                    digest=self.report.digest,
                    output=output["name"],
                    location=Path(output["directory"]),
                )
        self.steps += [StepTime(name=name, seconds=seconds) for name, seconds in self.report.timings.items()]
        broker.close()

    def write_job(self, name: str, *, program: str | None = None, columns: Mapping[str, Any] | None = None) -> Path:
        """Write a job file and its program into the analyst's directory and return the job file."""
        suffix, kind = ("py", "spark") if self.engine == "spark" else ("sql", "sql")
        home = self.world.directory / "analyst"
        source = (PROGRAMS / f"{name}.{suffix}").read_text() if program is None else program
        (home / f"{name}.{suffix}").write_text(source)
        outputs = {"delays": ["delays", "model"] if kind == "spark" else ["delays"]}.get(name, ["late"])
        text = self.world.job_toml(program=f"{name}.{suffix}", kind=kind, outputs=outputs, columns=columns or COLUMNS)
        path = home / f"{name}.toml"
        path.write_text(text)
        return path

    def audit(self) -> ExportReport:
        """Return the report on the ledger, exported and then checked without the broker."""
        world = self.world
        target = world.directory / "audit" / str(len(self.steps))
        with closing(world.analyst.attest_broker(world.broker_url)) as broker:
            broker.export(target)
            remembered = world.analyst.memory.recall()
            return check_export(target, broker.ledger_key, remembered=remembered[1].checkpoint if remembered else None)

    def _hear_host(self, name: str, facts: Mapping[str, Any]) -> None:
        """Pass on what the untrusted host saw go wrong; whatever went well, the driver tells itself."""
        if name == "host-said" and facts.get("event") in {"failed", "refused"}:
            self.narrator.note(f"{facts['role']}: {facts.get('message')} {facts.get('reasons') or ''}")

    @contextmanager
    def _step(self, number: int, title: str) -> Iterator[None]:
        with self.narrator.step(number, title):
            yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.steps.append(StepTime(name=name, seconds=time.monotonic() - started))

    @contextmanager
    def _steps_inside(self) -> Iterator[Any]:
        """Turn what the driver says into steps 3 to 7 of the story."""
        titles = {
            3: "The driver has its workers created",
            4: "The driver attests every worker; no evidence, no cluster secret",
            5: "Driver and workers get keys from the broker, by evidence and policy",
            6: "Spark starts in the workers, which read ciphertext and decrypt inside the TEE",
            7: "The job runs; results leave only through egress, encrypted to their recipients",
        }
        embedded = {
            5: "The driver gets keys from the broker, by evidence and policy",
            6: "The driver reads ciphertext and decrypts inside the TEE",
            7: titles[7],
        }
        shown = titles if self.engine == "spark" else embedded
        begin = {
            "broker-attested": 3,
            "member-admitted": 4,
            "worker-keys": 5,
            "spark-started": _SPARK,
            "program-started": 7,
        }
        if self.engine == "embedded":
            begin = {"keys-released": 5, "program-started": 7}
        current: list[Any] = [0, None]
        keyed: set[int] = set()

        def turn(number: int) -> None:
            for step in range(current[0] + 1 if current[0] else 3, number + 1):
                if step not in shown:
                    current[0] = step
                    continue
                if current[1] is not None:
                    current[1].__exit__(None, None, None)
                current[0], current[1] = step, self.narrator.step(step, shown[step])
                current[1].__enter__()

        def on_event(name: str, facts: Mapping[str, Any]) -> None:
            if name in begin and begin[name] > current[0]:
                turn(begin[name])
            if (note := describe(name, facts)) is not None:
                self.narrator.note(note)
            keyed.update([facts["member"]] if name == "worker-keys" else [])
            if len(keyed) == WORKERS and current[0] < _SPARK:
                turn(_SPARK)  # starting Spark takes longest: it is not what getting keys takes

        try:
            yield on_event
        finally:
            if current[1] is not None:
                current[1].__exit__(None, None, None)


def describe(name: str, facts: Mapping[str, Any]) -> str | None:
    """Return one line for a person about something the driver said, or nothing."""
    line = _LINES.get(name)
    return None if line is None else line(facts)


_LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "broker-attested": lambda facts: f"the driver attested the broker in {_ms(facts)}",
    "member-admitted": lambda facts: f"{facts['role']} attested in {_ms(facts)}: {_short(facts['measurement'])}",
    "member-refused": lambda facts: f"{facts['role']} refused: {'; '.join(facts['reasons'])}",
    "keys-released": lambda facts: f"keys of {', '.join(facts['datasets'])} released in {_ms(facts)}, ledger first",
    "worker-keys": lambda facts: f"worker {facts['member']} got its keys in {_ms(facts)}",
    "spark-started": lambda facts: (
        f"{facts['executors']} executors joined with authentication and AES-GCM in {facts['seconds']:.1f} s"
    ),
    "program-ended": lambda facts: f"the program ran {facts['seconds']:.1f} s",
    "egress-ruled": lambda facts: f"egress let out {_outputs(facts)}, encrypted to the recipients, in {_ms(facts)}",
}


def _outputs(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{one['name']} ({one['rows']} rows)" for one in facts["outputs"])


def _ms(facts: Mapping[str, Any]) -> str:
    return f"{facts['seconds'] * 1000:.0f} ms"


def _short(measurement: str) -> str:
    kind, _, digest = measurement.partition(":")
    return f"{kind}:{digest[:12]}…"
