"""Conduct one job inside the driver's TEE, from the client's attestation to the last output (spec/3-job.md §6).

Entry point of the measured role ``driver``. It starts with no secret, takes the job only from a client that attested
it, gets keys only from a broker that it attested, and admits workers only on evidence. It never falls back to
anything.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strongroom.attestation import providers
from strongroom.attestation.channel import AttestedChannel
from strongroom.attestation.listener import Listener
from strongroom.attestation.roles import Role
from strongroom.attestation.tee import verifier_within
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerClient, WorkloadSession
from strongroom.digests import parse_text
from strongroom.errors import EvidenceError, RefusedError, StrongroomError, TransportError
from strongroom.jobs.spec import JobSpec
from strongroom.policy.fusion import FusedPolicy
from strongroom.workload.clients import Clients
from strongroom.workload.ending import describe_defect, end_now, end_on_signal, keep_quiet, tell_defects
from strongroom.workload.engines import open_engine, verify_engine
from strongroom.workload.ensemble import Ensemble
from strongroom.workload.handover import BrokerAddress, Handover, MessageError, decode_failure, encode_failure
from strongroom.workload.hostline import HostLine
from strongroom.workload.inside import Room
from strongroom.workload.keyring import KeyRing
from strongroom.workload.lease import LeaseKeeper
from strongroom.workload.members import MemberLostError, MemberRefusedError, Members
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.program import run_confined
from strongroom.workload.pulse import seconds_now
from strongroom.workload.report import seal_report
from strongroom.workload.scratch import discard_scratch, make_scratch
from strongroom.workload.staffing import Staffing
from strongroom.workload.takeover import accept_each, attest_broker, take_over

_CLIENT_DEADLINE = 300.0
_MEMBER_DEADLINE = 600.0  # a cluster may have to fetch the image first; what cannot come at all, its host says sooner
_EGRESS_ATTEMPTS = 3
_EXIT_REFUSED = 3
# What the host may know of a job's course: it sees connections and loads anyway.
_STAGES = frozenset(
    {
        "broker-attested",
        "keys-released",
        "member-admitted",
        "member-refused",
        "program-started",
        "program-ended",
        "egress-ruled",
        "done",
    }
)


class Driver:
    """One job's driver."""

    def __init__(self, *, directory: Path, engine: str, digest: str, host: HostLine, address: str) -> None:
        self._directory = directory
        self._engine_name = engine
        self._digest = digest
        self._host = host
        self._address = address
        self._tee = providers.detect()
        self._keys = WorkloadKeys.generate()
        self._verifier = verifier_within(self._tee)
        self._ring = KeyRing()
        self._scratch = make_scratch()
        self._timings: dict[str, float] = {}
        self._drafts: list[OutputDraft] = []
        self._clients = Clients(self._verify_handover)
        self._members: Members | None = None
        self._staffing: Staffing
        self._ready_for_members = threading.Event()
        self._engine: Any = None
        self._over = threading.Event()
        self._closing = threading.Lock()
        self._closed = False

    def conduct(self, listen: tuple[str, int]) -> int:
        """Run the job to its end and return the exit code; every failure is told to the client first."""
        listener = Listener(
            listen,
            keys=self._keys,
            role=Role.DRIVER,
            tee=self._tee,
            verifier=self._verifier,
            job_digest=parse_text(self._digest),
        )
        self._host.say("listening", host=listener.address[0], port=listener.address[1])
        peers = {"receive": self._receive_peer, "tell": self._tell}
        threading.Thread(target=accept_each, args=(listener,), kwargs=peers, name="accept", daemon=True).start()
        try:
            handover, spec = self._clients.wait(deadline=_CLIENT_DEADLINE)
            outputs = self._run_job(handover, spec)
            self._tell("done", outputs=outputs, timings=self._timings)
        except StrongroomError as error:
            self._fail(error)
            return error.exit_code
        except Exception as error:  # noqa: BLE001  nothing may end a job without a word
            defect = describe_defect(error)
            self._fail(defect)
            return defect.exit_code
        finally:
            self.close()
            listener.close()
        return 0

    def _run_job(self, handover: Handover, spec: JobSpec) -> list[dict[str, Any]]:
        self._staffing = Staffing(
            workers=0 if self._engine_name == "embedded" else spec.workers,
            most=spec.most_workers,
            say=lambda count: self._host.say("wanted", role="worker", count=count),
        )
        self._host.say("wanted", role="egress", count=1)
        broker = self._attest_broker(handover)
        with self._timed("key-release"):
            asked = seconds_now()
            session, release = broker.attest_and_release(
                self._tee,
                keys=self._keys,
                role=Role.DRIVER,
                job_digest=parse_text(self._digest),
                datasets=sorted(spec.inputs),
                ticket=handover.ticket,
            )
        self._ring.hold(release.datasets, contents=release.contents, output=release.output)
        self._tell("keys-released", seconds=self._timings["key-release"], datasets=sorted(release.datasets))
        lease = LeaseKeeper(session.renew, seconds=release.lease_seconds, asked=asked, on_lost=self._stop_now)
        lease.start()
        try:
            self._open_members(handover, broker=broker, session=session)
            self._run_program(handover, spec, policy=release.policy)
            self._staffing.end()
            outputs = self._pass_egress(release.policy)
        finally:
            lease.stop()
        self._over.set()
        return outputs

    def _run_together(self, program: bytes, spec: JobSpec) -> None:
        """Have the workers run the program; the driver holds only what they wrote."""
        if self._members is None:
            raise TransportError("no member may come before the keys")
        self._tell("program-started")
        ensemble = Ensemble(self._members, size=spec.workers, outputs=tuple(spec.outputs), on_event=self._tell)
        with self._timed("program"):
            self._drafts = ensemble.run(program)
        self._tell("program-ended", seconds=self._timings["program"])

    def _run_program(self, handover: Handover, spec: JobSpec, *, policy: FusedPolicy) -> None:
        if self._engine_name == "torch":
            self._run_together(handover.program, spec)
            return
        self._engine = open_engine(
            self._engine_name,
            spec=spec,
            ring=self._ring,
            policy=policy,
            members=self._members,
            directory=self._directory,
            job=self._digest,
            on_event=self._tell,
            timings=self._timings,
            address=self._address,
            on_wish=self._staffing.ask,
        )
        room = Room(
            self._engine,
            inputs=spec.inputs,
            outputs=spec.outputs,
            purpose=spec.purpose,
            on_output=self._drafts.append,
        )
        self._engine.prepare(deadline=_MEMBER_DEADLINE)
        self._tell("program-started")
        with self._timed("program"):
            if spec.kind == "sql":
                self._run_query(handover.program, room)
            else:
                spark = self._engine_name == "spark"
                run_confined(handover.program, room, writable=self._engine.writable, keep_tcp=spark)
        self._tell("program-ended", seconds=self._timings["program"])

    def _verify_handover(self, channel: AttestedChannel, said: dict[str, Any]) -> tuple[Handover, JobSpec]:
        """Return the job that a client handed over if it is this driver's job and the client is its analyst."""
        handover, spec = take_over(channel, said, role="driver", digest=self._digest)
        verify_engine(self._engine_name, kind=spec.kind)
        return handover, spec

    def _attest_broker(self, handover: Handover) -> BrokerClient:
        with self._timed("attest-broker"):
            broker = attest_broker(handover, verifier=self._verifier, scratch=self._scratch)
        self._tell("broker-attested", seconds=self._timings["attest-broker"])
        return broker

    def _open_members(
        self,
        handover: Handover,
        *,
        broker: BrokerClient,
        session: WorkloadSession,
    ) -> None:
        def admit(channel: AttestedChannel, role: Role) -> str:
            started = time.monotonic()
            result = channel.peer
            if result is None:
                raise EvidenceError(f"a {role} must present evidence", step="evidence")
            ruling = session.admit(channel.peer_keys, role=role, result=result)
            seconds = time.monotonic() - started + channel.seconds
            if ruling.reasons:
                self._tell("member-refused", role=str(role), reasons=list(ruling.reasons), seconds=seconds)
                raise MemberRefusedError(
                    f"the {role} was not admitted",
                    reasons=ruling.reasons,
                    hint="start the published code; `strongroom measure` prints what it must measure as",
                )
            self._timings[f"attest-{role}"] = self._timings.get(f"attest-{role}", 0.0) + seconds
            self._tell("member-admitted", role=str(role), seconds=seconds, measurement=result.measurement)
            return ruling.letter

        self._members = Members(
            admit=admit,
            statement=handover.statement,
            broker=BrokerAddress(url=handover.broker.url, measurements=handover.broker.measurements),
            checkpoint=broker.memory.carry,
            on_event=self._note_member,
            on_count=lambda staying, leaving: self._staffing.note(staying=staying, leaving=leaving),
            on_silent=lambda role, name: self._host.say("lost", role=str(role), name=name),
        )
        self._ready_for_members.set()

    def _note_member(self, event: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Add up what the workers' keys took, and pass on what a member did."""
        if event == "worker-keys":
            self._timings[event] = self._timings.get(event, 0.0) + float(facts["seconds"])
        self._tell(event, **facts)

    def _run_query(self, program: bytes, room: Room) -> None:
        (output,) = room.outputs
        room.write(self._engine.checked_query(program.decode()), output)

    def _pass_egress(self, policy: FusedPolicy) -> list[dict[str, Any]]:
        """Hand the drafts to the admitted egress and return its rulings, one per output.

        An egress that dies is replaced twice. It rules by the policies of that moment, and refuses if they are no
        longer those that the program ran under.
        """
        if self._members is None:
            raise TransportError("no member may come before the keys")
        drafts = {"type": "outputs", "drafts": [draft.encode() for draft in self._drafts], "policy": policy.digest}
        with self._timed("egress"):
            for attempt in range(1, _EGRESS_ATTEMPTS + 1):
                (egress,) = self._members.wait_for(Role.EGRESS, 1, deadline=_MEMBER_DEADLINE)
                try:
                    answer = egress.ask(drafts)
                    break
                except MemberLostError:
                    if attempt == _EGRESS_ATTEMPTS:
                        raise
            if answer.get("type") == "failed":
                raise decode_failure(answer)
            if answer.get("type") != "ruled" or not isinstance(answer.get("outputs"), list):
                raise MessageError("egress sent something that is not a ruling")
        self._tell("egress-ruled", seconds=self._timings["egress"], outputs=answer["outputs"])
        return list(answer["outputs"])

    def _receive_peer(self, channel: AttestedChannel) -> None:
        if channel.peer_role is Role.CLIENT:
            self._clients.receive(channel)
        elif channel.peer_role in {Role.WORKER, Role.EGRESS} and self._ready_for_members.wait(_CLIENT_DEADLINE):
            if self._members is not None:
                self._members.welcome(channel, channel.peer_role)
        else:
            channel.close()

    def _stop_now(self, reasons: Sequence[str]) -> None:
        """End the job at once because a lease was lost: wipe the keys, stop the workers, tell the client, leave."""
        if self._over.is_set():
            return
        self._over.set()
        self._ring.wipe("; ".join(reasons))
        if self._members is not None:
            self._members.close(reasons)
        self._fail(RefusedError("the job was stopped: its keys were withdrawn", reasons=tuple(reasons)))
        end_now(self.close, code=_EXIT_REFUSED)

    def _tell(self, event: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Tell the clients, and the host which stage the job is at, without the facts."""
        self._clients.tell(event, **facts)
        if event in _STAGES:
            self._host.say("stage", name=event, **({"role": facts["role"]} if "role" in facts else {}))

    def _report(self) -> None:
        """Seal what the clients were told to the analyst, for the host to keep: the client may be gone."""
        handover = self._clients.handover
        if handover is not None:
            with contextlib.suppress(StrongroomError):  # a key that nothing can be sealed to is its giver's loss
                sealed = seal_report(self._clients.said, to=handover.report_to, keys=self._keys, job=self._digest)
                self._host.say("report", sealed=sealed)

    def _fail(self, error: StrongroomError) -> None:
        failure = encode_failure(error)
        if self._ring.withdrawn and not failure["reasons"]:
            failure["reasons"] = [self._ring.withdrawn]
        self._host.say("failed", kind=error.kind)
        self._tell(failure.pop("type"), **failure)

    def close(self) -> None:
        """Forget the keys, end what was started and remove the scratch directory; whoever calls second waits."""
        self._ring.wipe("the job is over")
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._report()
            self._host.say("finished")
            self._clients.close()
            try:
                if self._engine is not None:
                    self._engine.close()
            finally:
                if self._members is not None:
                    self._members.close()
                discard_scratch(self._scratch)

    @contextlib.contextmanager
    def _timed(self, step: str) -> Any:  # noqa: ANN401  a context manager
        started = time.monotonic()
        yield
        self._timings[step] = time.monotonic() - started


def main(argv: Sequence[str] | None = None) -> int:
    """Run the driver; the host gives a directory, an engine, a job digest and an address, none of it secret."""
    parser = argparse.ArgumentParser(prog="strongroom-driver")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--engine", choices=("embedded", "spark", "torch"), required=True)
    parser.add_argument("--job-digest", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--address", default="127.0.0.1", help="where workers on other machines find Spark's scheduler")
    arguments = parser.parse_args(argv)
    host, _, port = arguments.listen.rpartition(":")
    line = HostLine.take()
    keep_quiet()
    tell_defects(lambda error: line.say("failed", kind=error.kind, message=error.message))
    try:
        driver = Driver(
            directory=arguments.directory,
            engine=arguments.engine,
            digest=arguments.job_digest,
            host=line,
            address=arguments.address,
        )
        end_on_signal(driver.close)
        return driver.conduct((host, int(port)))
    except StrongroomError as error:
        line.say("failed", kind=error.kind, message=error.message)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
