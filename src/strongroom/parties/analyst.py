"""The analyst: submits a program, attests the driver before handing anything over, and fetches the result.

One method per step of the journey. The analyst never holds an owner's key; what it gets is a result that every owner's
policy agreed to, encrypted to its own key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.attestation.channel import AttestedChannel, connect
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerClient
from strongroom.digests import parse_text
from strongroom.envelope.files import SealedFiles
from strongroom.envelope.hpke import KemKey
from strongroom.errors import EvidenceError, UsageError
from strongroom.jobs.launch import JobHost, Launcher, Leavable, Placement, TeeHost
from strongroom.jobs.launch.placement import DriverLostError, PlacementEvent
from strongroom.jobs.spec import job_digest, load_job, sign_job
from strongroom.ledger.memory import CheckpointMemory
from strongroom.parties.following import Following, JobReport, OnEvent
from strongroom.parties.results import open_result
from strongroom.parties.submitted import LeftJob, Remember, SubmittedJob, expect_kind, keeping, note_end, note_failure
from strongroom.parties.trust import Trust
from strongroom.statements import SigningKey
from strongroom.workload.handover import ATTACH, BrokerAddress, Handover, decode_failure
from strongroom.workload.pulse import SILENCE_SECONDS
from strongroom.workload.report import open_report

_ATTEST_SECONDS = 60.0


class Analyst:
    """An analyst's SDK."""

    def __init__(self, key: SigningKey, kem: KemKey, *, trust: Trust, memory: CheckpointMemory) -> None:
        self.key = key
        self.kem = kem
        self.trust = trust
        self.memory = memory

    def attest_broker(self, url: str) -> BrokerClient:
        """Return a client of the broker at ``url`` after attesting it; raise EvidenceError if it is not good enough."""
        return BrokerClient.attest(
            url,
            verifier=self.trust.verifier(),
            expected_measurements=self.trust.measurements.get(Role.BROKER, frozenset()),
            memory=self.memory,
        )

    def submit(self, job: Path, *, broker: BrokerClient) -> SubmittedJob:
        """Sign the job in the TOML file ``job`` and enrol it; raise RefusedError with every owner's reasons at once."""
        started = time.monotonic()
        signed = sign_job(load_job(job), self.key)
        ticket = broker.submit_job(signed.statement)
        submitted = SubmittedJob(signed=signed, ticket=ticket, digest=job_digest(signed.statement))
        submitted.timings["submit"] = time.monotonic() - started
        return submitted

    def launch(
        self,
        submitted: SubmittedJob,
        *,
        host: TeeHost | JobHost,
        engine: str,
        directory: Path,
        on_event: OnEvent = lambda _name, _facts: None,
        role: Role = Role.DRIVER,
        more: Sequence[str] = (),
    ) -> Placement:
        """Start the job's processes on ``host``; nothing started is trusted yet.

        ``directory`` is where they work on this machine; a cluster's settings say where they do there. ``role``
        conducts the job, ``more`` is what it is told besides.
        """

        def forward(event: PlacementEvent) -> None:
            on_event(f"host-{event.kind}", {"role": event.role, **event.detail})

        launcher: Placement
        if isinstance(host, JobHost):
            spec = submitted.signed.verify()
            submitted.broker_url = host.broker_url
            launcher = host.place(spec, job_digest=submitted.digest, engine=engine, on_event=forward, more=more)
        else:
            launcher = Launcher(
                host,
                directory=directory,
                job_digest=submitted.digest,
                engine=engine,
                on_event=forward,
                head=role.value,
                more=more,
            )
        if role is Role.DRIVER:
            if engine != "embedded":
                launcher.want("worker", submitted.signed.verify().workers)
            launcher.want("egress", 1)
        started = time.monotonic()
        launcher.start()
        submitted.launcher = launcher
        submitted.timings[f"launch-{role}"] = time.monotonic() - started
        return launcher

    def attest_driver(
        self, submitted: SubmittedJob, address: tuple[str, int], *, role: Role = Role.DRIVER
    ) -> AttestedChannel:
        """Attest the driver (or endpoint) at ``address``: fresh, on this very connection, for this very job, with the
        published code.
        """
        started = time.monotonic()
        channel = self._attest(submitted.digest, address, wanted=submitted.signed.verify().tee, role=role)
        submitted.timings[f"attest-{role}"] = time.monotonic() - started
        return channel

    def _attest(
        self, digest: str, address: tuple[str, int], *, wanted: str, role: Role = Role.DRIVER
    ) -> AttestedChannel:
        channel = connect(
            address,
            keys=WorkloadKeys.generate(),
            role=Role.CLIENT,
            expected_role=role,
            signer=self.key,
            verifier=self.trust.verifier(),
            job_digest=parse_text(digest),
            deadline=_ATTEST_SECONDS,
        )
        if channel.peer is None:
            channel.close()
            raise EvidenceError(f"the {role} presented no evidence", step="evidence")
        try:
            self.trust.expect(channel.peer, role)
            expect_kind(channel.peer, wanted)
        except EvidenceError:
            channel.close()
            raise
        return channel

    def hand_over(self, submitted: SubmittedJob, channel: AttestedChannel, *, broker: BrokerClient) -> None:
        """Give the attested driver the signed job, the program and the ticket."""
        handover = Handover(
            statement=submitted.signed.statement.encode(),
            program=submitted.signed.program,
            ticket=submitted.ticket.encode(),
            broker=BrokerAddress(
                url=submitted.broker_url or broker.url,
                measurements=tuple(sorted(self.trust.measurements.get(Role.BROKER, frozenset()))),
            ),
            checkpoint=self.memory.carry(),
            report_to=self.kem.public,
        )
        channel.send(handover.encode())

    def follow(
        self,
        submitted: SubmittedJob,
        channel: AttestedChannel,
        *,
        on_event: OnEvent,
        silence: float = SILENCE_SECONDS,
    ) -> JobReport:
        """Follow the job to its end; return the report, or raise what stopped it with every reason.

        Raises DriverLostError if the driver falls silent for ``silence`` seconds, or with what the host saw if it died,
        and PlacementError if its members keep dying.
        """
        return self._following(submitted, channel, on_event=on_event, silence=silence).to_end()

    def _following(
        self, submitted: SubmittedJob, channel: AttestedChannel, *, on_event: OnEvent, silence: float = SILENCE_SECONDS
    ) -> Following:
        return Following(
            job=submitted.ticket.job_id,
            digest=submitted.digest,
            timings=submitted.timings,
            channel=channel,
            launcher=submitted.launcher,
            on_event=on_event,
            silence=silence,
        )

    def attach(self, known: LeftJob, address: tuple[str, int], *, on_event: OnEvent) -> JobReport:
        """Attest the driver of a job that goes on by itself once more, and follow it to its end, as :meth:`follow`
        does.

        Raises EvidenceError if it is not the driver that the job was handed to.
        """
        channel = self._attest(known.digest, address, wanted="any", role=known.role)
        if channel.peer_keys != known.driver:
            channel.close()
            raise EvidenceError(
                f"this {known.role} is not the one that the job was handed to",
                step="driver key",
                hint="its host started another; `strongroom job show` tells what became of the first",
            )
        channel.send(ATTACH)
        following = Following(
            job=known.job,
            digest=known.digest,
            timings=known.timings,
            channel=channel,
            launcher=None,
            on_event=on_event,
        )
        return following.to_end()

    def read_report(self, known: LeftJob, sealed: str, *, on_event: OnEvent = lambda _name, _facts: None) -> JobReport:
        """Return the report of a job that ended while nobody listened, or raise what stopped it.

        ``sealed`` is what its host kept; raises EvidenceError unless the driver wrote it that the job was handed to.
        """
        report = open_report(sealed, kem=self.kem, driver=known.driver, job=known.digest)
        for event in report.events:
            on_event(str(event.get("type")), {name: value for name, value in event.items() if name != "type"})
        if report.ending.get("type") != "done":
            raise decode_failure(report.ending)
        return JobReport(
            job=known.job,
            digest=known.digest,
            outputs=tuple(report.ending.get("outputs", ())),
            timings={**known.timings, **report.ending.get("timings", {})},
            simulated=known.simulated,
        )

    def run(
        self,
        job: Path,
        *,
        broker: BrokerClient,
        host: TeeHost | JobHost,
        engine: str,
        directory: Path,
        on_event: OnEvent = lambda _name, _facts: None,
        retries: int = 0,
        remember: Remember = lambda _left: None,
    ) -> JobReport:
        """Submit, launch, attest, hand over and follow one job; every process is gone afterwards.

        A driver that dies takes its secrets with it. The job is then signed and submitted anew, at most ``retries``
        times, and a new driver proves itself from the beginning; each time counts as a use of the data. ``remember``
        is given what is worth remembering as soon as the job was handed over, each time.
        """
        for attempt in range(1, retries + 2):
            try:
                return self._run_once(
                    job,
                    broker=broker,
                    host=host,
                    engine=engine,
                    directory=directory,
                    on_event=on_event,
                    remember=remember,
                )
            except DriverLostError as error:
                if attempt > retries:
                    raise
                on_event("placed-again", {"attempt": attempt + 1, "reason": error.message})
        raise UsageError(f"a job is placed at least once, got {retries} retries")

    def _run_once(
        self,
        job: Path,
        *,
        broker: BrokerClient,
        host: TeeHost | JobHost,
        engine: str,
        directory: Path,
        on_event: OnEvent,
        remember: Remember,
    ) -> JobReport:
        submitted = self.submit(job, broker=broker)
        on_event("submitted", {"job": submitted.ticket.job_id, "seconds": submitted.timings["submit"]})
        launcher = self.launch(submitted, host=host, engine=engine, directory=directory, on_event=on_event)
        try:
            left, channel = self.hand_to_head(submitted, launcher, broker=broker, on_event=on_event)
            remember(left)
            report = self.follow(submitted, channel, on_event=on_event)
        except BaseException as error:  # also Ctrl-C
            note_failure(launcher, error)
            raise
        else:
            note_end(launcher, "done")
            return report
        finally:
            launcher.stop()

    def leave(
        self,
        job: Path,
        *,
        broker: BrokerClient,
        host: JobHost,
        engine: str,
        on_event: OnEvent = lambda _name, _facts: None,
        remember: Remember = lambda _left: None,
    ) -> LeftJob:
        """Submit, launch, attest and hand over one job, see its keys released, and leave it to its host.

        The host keeps its processes alive from then on (it is as little trusted as ever); :meth:`attach` and
        :meth:`read_report` tell how it went. Raises UsageError if the host cannot keep a job, and whatever stops a
        job before its keys are released; nothing is left running then. ``remember`` is called as in :meth:`run`.
        """
        submitted = self.submit(job, broker=broker)
        on_event("submitted", {"job": submitted.ticket.job_id, "seconds": submitted.timings["submit"]})
        launcher = self.launch(submitted, host=host, engine=engine, directory=Path(), on_event=on_event)
        try:
            leave = keeping(launcher).leave
            left, channel = self.hand_to_head(submitted, launcher, broker=broker, on_event=on_event)
            remember(left)
            self._following(submitted, channel, on_event=on_event).until("keys-released")
        except BaseException as error:  # also Ctrl-C
            note_failure(launcher, error)
            launcher.stop()
            raise
        channel.close()
        leave()
        return left

    def hand_to_head(
        self,
        submitted: SubmittedJob,
        launcher: Placement,
        *,
        broker: BrokerClient,
        on_event: OnEvent,
        role: Role = Role.DRIVER,
    ) -> tuple[LeftJob, AttestedChannel]:
        """Attest what conducts the job and hand it over; tell of both."""
        channel = self.attest_driver(submitted, launcher.start_address, role=role)
        simulated = channel.peer is not None and channel.peer.simulated
        on_event(f"{role}-attested", {"seconds": submitted.timings[f"attest-{role}"], "simulated": simulated})
        self.hand_over(submitted, channel, broker=broker)
        name = ""
        if isinstance(launcher, Leavable):
            name = launcher.name
            launcher.note(f"{role}-attested")
            launcher.note("handed-over")
        left = LeftJob(
            job=submitted.ticket.job_id,
            digest=submitted.digest,
            name=name,
            outputs=tuple(submitted.signed.verify().outputs),
            driver=channel.peer_keys,
            timings=dict(submitted.timings),
            simulated=simulated,
            role=role,
        )
        on_event("handed-over", {"job": left.job, **({"name": name} if name else {})})
        return left, channel

    def fetch(self, *, broker: BrokerClient, digest: str, output: str, location: Path) -> pa.Table:
        """Return a result as an Arrow table: ask the broker for its key, verify every file, decrypt at home.

        Raises RefusedError while approvals are missing or after a revocation, UsageError if the result has files.
        """
        found = self.fetch_any(broker=broker, digest=digest, output=output, locate=lambda _path: location)
        if isinstance(found, SealedFiles):
            raise UsageError(f"output {output!r} has files, not rows", hint="fetch it into a directory")
        return found

    def fetch_files(self, *, broker: BrokerClient, digest: str, output: str, location: Path) -> SealedFiles:
        """Return a result's files, such as a model's, readable by name; like :meth:`fetch` otherwise.

        ``workload.files.unpack`` writes them to a directory.
        """
        found = self.fetch_any(broker=broker, digest=digest, output=output, locate=lambda _path: location)
        if not isinstance(found, SealedFiles):
            raise UsageError(f"output {output!r} is a table", hint="fetch it as a table")
        return found

    def fetch_any(
        self, *, broker: BrokerClient, digest: str, output: str, locate: Callable[[str], Path]
    ) -> pa.Table | SealedFiles:
        """Return a result as a table or files, whichever it is; raise as :meth:`fetch` does.

        ``locate`` is given where egress left it, as the job saw it, and returns where it lies here.
        """
        return open_result(broker=broker, digest=digest, output=output, locate=locate, key=self.key, kem=self.kem)
