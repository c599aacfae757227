"""Be one worker: prove oneself to the driver, get keys from the broker, run one executor, stop when told.

Entry point of the measured role ``worker``. It starts with no secret and leaves with none: when a lease is lost or the
driver goes away, the executor is killed and every key is wiped (spec/3-job.md §6).
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.attestation import providers
from strongroom.attestation.channel import AttestedChannel, connect
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import LineClosedError
from strongroom.attestation.tee import verifier_within
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerClient
from strongroom.digests import parse_text
from strongroom.errors import EvidenceError, RefusedError, StrongroomError
from strongroom.jobs.spec import JobSpec, job_digest, verify_spec
from strongroom.ledger.memory import CheckpointMemory
from strongroom.statements import Statement
from strongroom.workload.address import own_address
from strongroom.workload.agent import KeyAgent
from strongroom.workload.ending import describe_defect, end_now, end_on_signal, keep_quiet, tell_defects
from strongroom.workload.handover import Admission, ClusterJoin
from strongroom.workload.hostline import HostLine
from strongroom.workload.keyring import KeyRing
from strongroom.workload.lease import LeaseKeeper
from strongroom.workload.pulse import ALIVE, SILENCE_SECONDS, Pulse, seconds_now
from strongroom.workload.scratch import discard_all, discard_scratch, make_scratch

if TYPE_CHECKING:
    from strongroom.policy.fusion import FusedPolicy
    from strongroom.workload.part import Part
    from strongroom.workload.spark.cluster import ExecutorProcess

_DRIVER_DEADLINE = 120.0
_ADMISSION_DEADLINE = 330.0  # as long as a driver waits for its client, and a little
DRAIN_SECONDS = 50.0
_EXIT_LOST = 3
_KNOCKS = 8
_KNOCK_SECONDS, _MOST_KNOCK_SECONDS = 0.2, 5.0


class Member:
    """A process of a job that joins its driver: the part that workers and egress share."""

    def __init__(self, *, role: Role, driver: tuple[str, int], digest: str, name: str = "") -> None:
        self.role = role
        self.name = name
        self.digest = digest
        self.tee = providers.detect()
        self.scratch = make_scratch()
        self.keys = WorkloadKeys.generate()
        self.verifier = verifier_within(self.tee)
        self.channel: AttestedChannel = knock(
            lambda: connect(
                driver,
                keys=self.keys,
                role=role,
                expected_role=Role.DRIVER,
                tee=self.tee,
                verifier=self.verifier,
                job_digest=parse_text(digest),
                deadline=_DRIVER_DEADLINE,
            )
        )

    def join(self) -> tuple[Admission, JobSpec]:
        """Wait for the driver's ruling; return its admission and the job it is for, or raise its refusal."""
        said = self.channel.receive(deadline=_ADMISSION_DEADLINE)
        if said.get("type") == "refused":
            raise EvidenceError(str(said.get("message")), step="admission", hint=str(said.get("hint", "")))
        admission = Admission.decode(said)
        statement = Statement.decode(admission.statement)
        if job_digest(statement) != self.digest:
            raise EvidenceError("the driver runs another job than this process was started for", step="job digest")
        spec = verify_spec(statement)
        self.channel.send({"type": "placed", "name": self.name})
        Pulse(self._beat).start()
        return admission, spec

    def hear(self) -> dict[str, Any]:
        """Return what the driver says next, however long that takes; raise TransportError if it falls silent."""
        while (said := self.channel.receive(deadline=SILENCE_SECONDS)) == ALIVE:
            pass
        return said

    def work(self) -> int:
        """Do what this member is there for and return the exit code."""
        raise NotImplementedError

    def drain(self) -> bool:
        """Begin to leave in order, if there is anything to do before; return whether that was begun."""
        return False

    def close(self) -> None:
        """Leave the driver and remove the scratch directory; safe to call twice."""
        self.channel.close()
        discard_scratch(self.scratch)

    def _beat(self) -> bool:
        try:
            self.channel.send(ALIVE)
        except StrongroomError:
            return False
        return True

    def attest_broker(self, admission: Admission) -> BrokerClient:
        """Attest the broker that the driver named, against the same checkpoint."""
        return BrokerClient.attest(
            admission.broker.url,
            verifier=self.verifier,
            expected_measurements=admission.broker.measurements,
            memory=CheckpointMemory.carried(self.scratch / "ledger.json", admission.checkpoint),
        )


class Worker(Member):
    """One worker of a job, with one executor."""

    def __init__(self, *, driver: tuple[str, int], digest: str, directory: Path, name: str) -> None:
        super().__init__(role=Role.WORKER, driver=driver, digest=digest, name=name)
        self._driver = driver
        self._directory = directory
        self._ring = KeyRing()
        self._executor: ExecutorProcess | None = None
        self._draining = self._closing = False
        self._part: Part | None = None

    def work(self) -> int:
        """Run until the driver says stop, the executor ends or a lease is lost; return the exit code."""
        from strongroom.workload.spark.cluster import ExecutorProcess

        admission, spec = self.join()
        broker = self.attest_broker(admission)
        started = time.monotonic()
        asked = seconds_now()
        session, release = broker.attest_and_release(
            self.tee,
            keys=self.keys,
            role=Role.WORKER,
            job_digest=parse_text(self.digest),
            datasets=sorted(spec.inputs),
            admission=admission.admission,
        )
        self._ring.hold(release.datasets, contents=release.contents, output=release.output)
        LeaseKeeper(session.renew, seconds=release.lease_seconds, asked=asked, on_lost=self._lose).start()
        self.channel.send({"type": "keys-released", "seconds": time.monotonic() - started})
        if spec.kind == "torch":
            return self._play(spec, release.policy)
        with KeyAgent(self._ring.find, directory=self.scratch) as agent:
            said = self.hear()
            if said.get("type") == "stop":
                return 0
            join = ClusterJoin.decode(said)
            executor = ExecutorProcess(
                secret=join.secret,
                driver_url=join.driver_url,
                executor_id=join.executor_id,
                host=own_address(self._driver),
                cores=join.cores,
                memory=join.memory,
                app_id=join.app_id,
                agent_socket=agent.path,
                work_dir=self.scratch,
                inputs=[Path(wanted.location) for wanted in spec.inputs.values()],
                outbox=self._directory / "outbox",
            )
            self._executor = executor
            executor.start()
            threading.Thread(target=self._listen, daemon=True).start()
            code = executor.wait()
        return 0 if self._draining or self._ring.withdrawn else code

    def drain(self) -> bool:
        """Have the executor finish its tasks and hand its blocks to others; the worker then ends with code 0.

        After fifty seconds it ends as it is: whoever drains a machine does not wait for ever.
        """
        executor = self._executor
        if executor is None:
            return False
        self._draining = True
        executor.leave()
        late = threading.Timer(DRAIN_SECONDS, end_now, (self.close,), {"code": 0})
        late.daemon = True
        late.start()
        return True

    def _play(self, spec: JobSpec, policy: FusedPolicy) -> int:
        """Run the program together with the other workers until the driver says stop."""
        from strongroom.workload.mesh.mesh import Proof
        from strongroom.workload.part import Part

        self._part = Part(
            spec=spec,
            job=self.digest,
            ring=self._ring,
            policy=policy,
            directory=self._directory,
            proof=Proof(keys=self.keys, tee=self.tee, verifier=self.verifier, job_digest=parse_text(self.digest)),
            host=own_address(self._driver),
            channel=self.channel,
        )
        code = _EXIT_LOST
        try:
            reasons = list(self._part.play(self.hear))
            if not reasons:
                code, reasons = 0, ["the driver said stop"]
        except Exception as error:  # noqa: BLE001  a program may still run, so the process must end here
            trouble = error if isinstance(error, StrongroomError) else describe_defect(error)
            reasons = [trouble.message]
        self._lose(reasons, code=code)
        return code

    def _listen(self) -> None:
        """Obey the driver; its silence, or its end, is a reason to stop as well."""
        code = _EXIT_LOST
        try:
            said = self.hear()
            reasons = [str(reason) for reason in said.get("reasons") or ()]
            if said.get("type") == "stop" and not reasons:
                code, reasons = 0, ["the driver said stop"]
        except Exception as error:  # noqa: BLE001  whatever it is, there is no driver to work for
            if self._closing:  # the line was cut at this end, by an end that has its own code
                return
            trouble = error if isinstance(error, StrongroomError) else describe_defect(error)
            reasons = [f"the driver is gone: {trouble.message}"]
        self._lose(reasons, code=code)

    def _lose(self, reasons: Sequence[str], *, code: int = _EXIT_LOST) -> None:
        """Wipe the keys, kill the executor and leave."""
        self._ring.wipe("; ".join(reasons))
        end_now(self.close, code=code)

    def close(self) -> None:
        """Wipe the keys, kill the executor, leave the driver; safe to call twice."""
        self._closing = True
        self._ring.wipe("the worker ends")
        if self._executor is not None:
            self._executor.kill()
        if self._part is not None:
            self._part.close()
        super().close()


def knock(connect_once: Callable[[], AttestedChannel]) -> AttestedChannel:
    """Return the channel to the driver; knock again, at most eight times, while it closes the door without a word.

    A driver hears 32 introductions at once, and lets the oldest go for one more: a thousand workers that start at the
    same moment come in by and by.
    """
    pause = _KNOCK_SECONDS
    for _ in range(_KNOCKS - 1):
        try:
            return connect_once()
        except LineClosedError:
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311  only to spread those who come at once
            pause = min(2 * pause, _MOST_KNOCK_SECONDS)
    return connect_once()


def member_arguments(name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse what the host gives a member: the driver's address, the job digest and the job's directory."""
    parser = argparse.ArgumentParser(prog=f"strongroom-{name}")
    parser.add_argument("--driver", required=True)
    parser.add_argument("--job-digest", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--name", default="", help="what the host calls this process")
    arguments = parser.parse_args(argv)
    host, _, port = arguments.driver.rpartition(":")
    arguments.driver = (host, int(port))
    return arguments


def run_member(make: Callable[[], Member]) -> int:
    """Run the member that ``make`` returns to its end and return the exit code; the host learns what went wrong."""
    line = HostLine.take()
    keep_quiet()
    tell_defects(lambda error: line.say("failed", message=error.message, kind=error.kind))
    member: Member | None = None
    try:
        member = make()
        end_on_signal(member.close, drain=member.drain)
        return member.work()
    except RefusedError as error:
        line.say("refused", message=error.message, reasons=list(error.reasons))
        return error.exit_code
    except StrongroomError as error:
        line.say("failed", message=error.message, kind=error.kind)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  nothing may end a process without a word
        defect = describe_defect(error)
        line.say("failed", message=defect.message, kind=defect.kind)
        return defect.exit_code
    finally:
        if member is not None:
            member.close()
        discard_all()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker; nothing the host gives it is secret."""
    arguments = member_arguments("worker", argv)
    return run_member(
        lambda: Worker(
            driver=arguments.driver,
            digest=arguments.job_digest,
            directory=arguments.directory,
            name=arguments.name,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
