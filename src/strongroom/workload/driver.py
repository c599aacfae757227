"""Conduct one job inside the driver's TEE, from the client's attestation to the last output (spec/3-job.md §6).

Entry point of the measured role ``driver``. It starts with no secret, takes the job only from a client that attested
it, gets keys only from a broker that it attested, and admits workers only on evidence. It never falls back to
anything.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strongroom.attestation import providers
from strongroom.attestation.appraisal import AppraisalPolicy, Verifier
from strongroom.attestation.channel import AttestedChannel, Listener
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerClient, WorkloadSession
from strongroom.digests import parse_text
from strongroom.errors import EvidenceError, RefusedError, StrongroomError, TransportError
from strongroom.jobs.spec import JobSpec, job_digest, verify_job
from strongroom.ledger.memory import CheckpointMemory
from strongroom.statements import Statement
from strongroom.workload.engines import open_engine
from strongroom.workload.handover import BrokerAddress, Handover, MessageError, decode_failure, encode_failure
from strongroom.workload.hostline import HostLine
from strongroom.workload.inside import Room
from strongroom.workload.keyring import KeyRing
from strongroom.workload.lease import LeaseKeeper
from strongroom.workload.members import MemberRefusedError, Members
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.program import run_program
from strongroom.workload.scratch import make_scratch

_CLIENT_DEADLINE = 300.0
_MEMBER_DEADLINE = 120.0
_EGRESS_DEADLINE = 3600.0
_EXIT_REFUSED = 3


class Driver:
    """One job's driver."""

    def __init__(self, *, directory: Path, engine: str, digest: str, host: HostLine) -> None:
        self._directory = directory
        self._engine_name = engine
        self._digest = digest
        self._host = host
        self._tee = providers.detect()
        self._keys = WorkloadKeys.generate()
        self._verifier = Verifier(
            self._tee.anchor(),
            self._tee.collateral_source(),
            memory=CollateralMemory(),
            policy=AppraisalPolicy.leaving_tcb_to_caller(),
        )
        self._ring = KeyRing()
        self._scratch = make_scratch()
        self._timings: dict[str, float] = {}
        self._drafts: list[OutputDraft] = []
        self._client: AttestedChannel | None = None
        self._client_came = threading.Event()
        self._members: Members | None = None
        self._ready_for_members = threading.Event()
        self._engine: Any = None
        self._send_lock = threading.Lock()
        self._over = threading.Event()

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
        threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True).start()
        try:
            if not self._client_came.wait(_CLIENT_DEADLINE):
                raise TransportError(f"no client attested this driver within {_CLIENT_DEADLINE:.0f} s")
            outputs = self._run_job()
            self._tell("done", outputs=outputs, timings=self._timings)
        except StrongroomError as error:
            self._fail(error)
            return error.exit_code
        finally:
            self._close()
            listener.close()
        return 0

    def _run_job(self) -> list[dict[str, Any]]:
        handover, spec = self._take_job()
        self._host.say("wanted", role="worker", count=spec.workers if self._engine_name == "spark" else 0)
        self._host.say("wanted", role="egress", count=1)
        broker = self._attest_broker(handover)
        with self._timed("key-release"):
            session = broker.attest_workload(
                self._tee,
                keys=self._keys,
                role=Role.DRIVER,
                job_digest=parse_text(self._digest),
                ticket=handover.ticket,
            )
            release = session.release(sorted(spec.inputs))
        self._ring.hold(release.datasets, output=release.output)
        self._tell("keys-released", seconds=self._timings["key-release"], datasets=sorted(release.datasets))
        lease = LeaseKeeper(session.renew, seconds=release.lease_seconds, on_lost=self._stop_now)
        lease.start()
        self._open_members(handover, broker=broker, session=session)
        self._engine = open_engine(
            self._engine_name,
            spec=spec,
            ring=self._ring,
            policy=release.policy,
            members=self._members,
            directory=self._directory,
            on_event=self._tell,
            timings=self._timings,
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
                run_program(handover.program, room)
        self._tell("program-ended", seconds=self._timings["program"])
        outputs = self._pass_egress()
        lease.stop()
        self._over.set()
        self._host.say("finished")
        return outputs

    def _take_job(self) -> tuple[Handover, JobSpec]:
        if self._client is None:
            raise TransportError("the client left before it handed over the job")
        handover = Handover.decode(self._client.receive(deadline=_CLIENT_DEADLINE))
        statement = Statement.decode(handover.statement)
        spec = verify_job(statement, handover.program)
        if job_digest(statement) != self._digest:
            raise EvidenceError(
                f"this driver was started for job {self._digest[:20]}…, but was handed {job_digest(statement)[:20]}…",
                step="job digest",
                hint="submit the job anew",
            )
        if self._client.party != spec.analyst:
            raise RefusedError(
                "the job was handed over by somebody else than its analyst",
                reasons=(f"the client is {self._client.party}, the job is by {spec.analyst}",),
            )
        if spec.kind != "sql" and self._engine_name == "embedded":
            raise RefusedError(f"the embedded engine runs sql jobs, not {spec.kind}", hint="use --cluster standalone")
        return handover, spec

    def _attest_broker(self, handover: Handover) -> BrokerClient:
        with self._timed("attest-broker"):
            memory = CheckpointMemory.carried(self._scratch / "ledger.json", handover.checkpoint)
            broker = BrokerClient.attest(
                handover.broker.url,
                verifier=self._verifier,
                expected_measurements=handover.broker.measurements,
                memory=memory,
            )
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
            on_event=self._tell,
        )
        self._ready_for_members.set()

    def _run_query(self, program: bytes, room: Room) -> None:
        (output,) = room.outputs
        room.write(self._engine.checked_query(program.decode()), output)

    def _pass_egress(self) -> list[dict[str, Any]]:
        """Hand the drafts to the admitted egress and return its rulings, one per output."""
        if self._members is None:
            raise TransportError("no member may come before the keys")
        with self._timed("egress"):
            (egress,) = self._members.wait_for(Role.EGRESS, 1, deadline=_MEMBER_DEADLINE)
            egress.channel.send({"type": "outputs", "drafts": [draft.encode() for draft in self._drafts]})
            answer = egress.channel.receive(deadline=_EGRESS_DEADLINE)
            if answer.get("type") == "failed":
                raise decode_failure(answer)
            if answer.get("type") != "ruled" or not isinstance(answer.get("outputs"), list):
                raise MessageError("egress sent something that is not a ruling")
        self._tell("egress-ruled", seconds=self._timings["egress"], outputs=answer["outputs"])
        return list(answer["outputs"])

    def _accept(self, listener: Listener) -> None:
        """Accept peers for as long as the job runs; each is served in a thread of its own."""
        while True:
            try:
                channel = listener.accept()
            except StrongroomError as error:
                if listener.closed:
                    return
                self._tell("peer-refused", reason=error.message, kind=error.kind)
                continue
            threading.Thread(target=self._receive_peer, args=(channel,), daemon=True).start()

    def _receive_peer(self, channel: AttestedChannel) -> None:
        if channel.peer_role is Role.CLIENT:
            if self._client_came.is_set():
                channel.close()
                return
            self._client = channel
            self._client_came.set()
            return
        if channel.peer_role not in {Role.WORKER, Role.EGRESS} or not self._ready_for_members.wait(_MEMBER_DEADLINE):
            channel.close()
            return
        if self._members is not None:
            self._members.welcome(channel, channel.peer_role)

    def _stop_now(self, reasons: Sequence[str]) -> None:
        """End the job at once because a lease was lost: wipe the keys, stop the workers, tell the client, leave."""
        if self._over.is_set():
            return
        self._over.set()
        self._ring.wipe("; ".join(reasons))
        if self._members is not None:
            self._members.tell_all({"type": "stop", "reasons": list(reasons)})
        self._fail(RefusedError("the job was stopped: its keys were withdrawn", reasons=tuple(reasons)))
        self._close()
        os._exit(_EXIT_REFUSED)

    def _fail(self, error: StrongroomError) -> None:
        failure = encode_failure(error)
        if self._ring.withdrawn and not failure["reasons"]:
            failure["reasons"] = [self._ring.withdrawn]
        self._tell(failure.pop("type"), **failure)

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._ring.wipe("the job is over")
        if self._members is not None:
            self._members.tell_all({"type": "stop", "reasons": []})
        self._host.say("finished")
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _tell(self, event: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Tell the client, over its attested channel; a client that went away does not stop the job."""
        if self._client is None:
            return
        with self._send_lock, contextlib.suppress(StrongroomError):
            self._client.send({"type": event, **facts})

    @contextlib.contextmanager
    def _timed(self, step: str) -> Any:  # noqa: ANN401  a context manager
        started = time.monotonic()
        yield
        self._timings[step] = time.monotonic() - started


def main(argv: Sequence[str] | None = None) -> int:
    """Run the driver; the host gives a directory, an engine, a job digest and an address, none of it secret."""
    parser = argparse.ArgumentParser(prog="strongroom-driver")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--engine", choices=("embedded", "spark"), required=True)
    parser.add_argument("--job-digest", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    arguments = parser.parse_args(argv)
    host, _, port = arguments.listen.rpartition(":")
    line = HostLine.take()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    driver = Driver(directory=arguments.directory, engine=arguments.engine, digest=arguments.job_digest, host=line)
    return driver.conduct((host, int(port)))


if __name__ == "__main__":
    sys.exit(main())
