"""Show what is refused, each time by a real run: nobody pretends, and the reason stands in the ledger.

Six moves: a worker with one byte changed, a program nobody approved, a withheld column, replayed evidence, data revoked
while a job runs, a store rolled back to before the revocation.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import strongroom
from strongroom.attestation.roles import Role
from strongroom.demo.story import COLUMNS, Story
from strongroom.errors import StrongroomError
from strongroom.jobs.launch import RunningProcess, TeeHost
from strongroom.parties.analyst import Analyst


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalCase:
    """One attacker move and what came of it; ``entry`` is the index in the ledger, -1 if none was found."""

    case: str
    refused: bool
    reasons: tuple[str, ...]
    entry: int = -1


class TamperingHost:
    """A host that starts a changed copy of the package for one role, as a hostile operator would."""

    def __init__(self, host: Any, *, role: str, package: Path) -> None:  # noqa: ANN401  any TEE host that takes package_root
        self._host = host
        self._role = role
        self._package = package

    def start(
        self,
        role: str,
        argv: Sequence[str],
        *,
        job_digest: str = "",
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> RunningProcess:
        """Start ``role``, from the changed copy if it is the chosen one."""
        package = self._package if role == self._role else None
        process: RunningProcess = self._host.start(
            role, argv, job_digest=job_digest, stdout=stdout, stderr=stderr, package_root=package
        )
        return process


@dataclass(slots=True)
class Refusals:
    """The attacker's moves against one told story."""

    story: Story
    on_case: Callable[[RefusalCase], None] = lambda _case: None
    cases: list[RefusalCase] = field(default_factory=list)

    def run_all(self) -> list[RefusalCase]:
        """Make every move, the destructive ones last, and return what came of each."""
        moves: dict[str, Callable[[], object]] = {
            "a worker whose code was changed by one byte": self.change_worker,
            "a program that the owners did not approve": self.change_program,
            "a column that a policy withholds": self.ask_withheld_column,
            "replayed evidence": self.replay_evidence,
            "a dataset revoked while the job runs": self.revoke_while_running,
            "a store rolled back to before the revocation": self.roll_back_store,
        }
        for case, move in moves.items():
            self.cases.append(self._attempt(case, move))
            self.on_case(self.cases[-1])
        return self.cases

    def change_worker(self) -> None:
        """Run the approved job with workers from a copy of the package in which one byte differs."""
        copy = self.story.world.directory / "changed" / "strongroom"
        shutil.copytree(Path(strongroom.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        changed = copy / "workload" / "worker.py"
        code = changed.read_bytes()
        changed.write_bytes(code.replace(b"Be one worker", b"Be One worker", 1))
        host = TamperingHost(self.story.world.platform, role="worker", package=copy)
        self._run_job("delays", host=host, name="changed-worker", engine="spark")

    def change_program(self) -> None:
        """Submit the approved program with one line more."""
        job = self.story.write_job("delays")
        program = job.with_suffix(".py" if self.story.engine == "spark" else ".sql")
        addition = "# one more line\n" if self.story.engine == "spark" else "LIMIT 1000000\n"
        job = self.story.write_job("delays", program=program.read_text() + addition)
        self._submit(job)

    def ask_withheld_column(self) -> None:
        """Ask for a column that the airline withholds."""
        columns = {**COLUMNS, "flights": (*COLUMNS["flights"], "flight")}
        self._submit(self.story.write_job("delays", columns=columns))

    def replay_evidence(self) -> None:
        """Present the evidence of the main job's driver to the broker again, as if it were fresh."""
        world = self.story.world
        with closing(world.analyst.attest_broker(world.broker_url)) as broker:
            job = self.story.write_job("delays")
            submitted = world.analyst.submit(job, broker=broker)
            directory = world.directory / "jobs" / "replay"
            launcher = world.analyst.launch(submitted, host=world.platform, engine="embedded", directory=directory)
            try:
                channel = world.analyst.attest_driver(submitted, launcher.start_address)
                evidence = channel.evidence
                channel.close()
            finally:
                launcher.stop()
            if evidence is None:
                raise StrongroomError("the driver presented no evidence")
            broker.attest_with_recorded_evidence(
                evidence, role=Role.DRIVER, job_digest=submitted.digest, ticket=submitted.ticket
            )

    def revoke_while_running(self) -> None:
        """Start a long job and let the airline revoke its flights in the middle of it."""
        world = self.story.world
        airline = world.owners["airline"]
        shutil.copytree(world.store, world.directory / "store-before-revocation")

        def on_event(name: str, _facts: Mapping[str, Any]) -> None:
            if name == "program-started":
                threading.Timer(1.0, revoke).start()

        def revoke() -> None:
            if airline.broker is not None:
                airline.owner.revoke(airline.dataset, broker=airline.broker, reason="the airline changed its mind")

        self._run_job("watch", host=world.platform, name="revoked", engine=self.story.engine, on_event=on_event)

    def roll_back_store(self) -> None:
        """Put back the broker's store from before the revocation and start it again, as a hostile host would."""
        world = self.story.world
        world.stop_broker()
        after = world.directory / "store-after-revocation"
        shutil.move(world.store, after)
        shutil.copytree(world.directory / "store-before-revocation", world.store)
        try:
            world.start_broker()
            self._submit(self.story.write_job("delays"))
        finally:
            world.stop_broker()
            shutil.rmtree(world.store)
            shutil.move(after, world.store)
            world.start_broker()  # from the newest store again; it writes down what was tried

    def _attempt(self, case: str, move: Callable[[], object]) -> RefusalCase:
        before = self._ledger_size()
        try:
            move()
        except StrongroomError as error:
            reasons = tuple(getattr(error, "reasons", ())) or (error.message,)
            return RefusalCase(case=case, refused=True, reasons=reasons, entry=self._find_entry(before))
        return RefusalCase(case=case, refused=False, reasons=())

    def _ledger_size(self) -> int:
        world = self.story.world
        with closing(world.analyst.attest_broker(world.broker_url)) as broker:
            return broker.checkpoint().size

    def _find_entry(self, since: int) -> int:
        """Return the index of the newest refusal, revocation or rollback that the ledger gained, or -1."""
        world = self.story.world
        wanted = {"refusal", "rollback", "revocation"}
        with closing(world.analyst.attest_broker(world.broker_url)) as broker:
            size = broker.checkpoint().size
            found = [
                since + offset
                for offset, entry in enumerate(broker.entries(since, size))
                if str(entry.kind) in wanted or (str(entry.kind) == "admission" and entry.reasons)
            ]
        return found[-1] if found else -1

    def _submit(self, job: Path) -> None:
        world = self.story.world
        with closing(world.analyst.attest_broker(world.broker_url)) as broker:
            world.analyst.submit(job, broker=broker)

    def _run_job(
        self,
        program: str,
        *,
        host: TeeHost,
        name: str,
        engine: str,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda _name, _facts: None,
    ) -> None:
        world = self.story.world
        analyst: Analyst = world.analyst
        with closing(analyst.attest_broker(world.broker_url)) as broker:
            analyst.run(
                self.story.write_job(program),
                broker=broker,
                host=host,
                engine=engine,
                directory=world.directory / "jobs" / name,
                on_event=on_event,
            )
