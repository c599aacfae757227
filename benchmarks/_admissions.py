"""What a driver spends on admitting workers: any number of them, with genuine simulated evidence, that start no Java.

Driver and broker are real, measured processes; the workers are threads of this one, which prove themselves as workers
do and then stay, as members of the job, to the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from strongroom.attestation.appraisal import Verifier
    from strongroom.attestation.channel import AttestedChannel
    from strongroom.attestation.simulated.inside import SimulatedTee
    from strongroom.demo.world import World

AT_ONCE = 16
SLEEPER = "import time\n\ntime.sleep(3600)\n"
_START_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Admissions:
    """One crowd: seconds from the first knock to the last admission, and what processes spent on it."""

    workers: int
    seconds: float
    driver_cpu: float
    broker_cpu: float
    driver_mebibytes: float
    waits: tuple[float, ...]


def prepare_worker(world: World, *, job: str) -> tuple[SimulatedTee, Verifier]:
    """Return a TEE that runs a worker of ``job``, and what it verifies its peers with."""
    from strongroom.attestation.appraisal import AppraisalPolicy, Verifier
    from strongroom.attestation.memory import CollateralMemory
    from strongroom.attestation.simulated.inside import SimulatedTee

    tee = SimulatedTee.of(world.platform.enclave("worker", job_digest=job))
    policy = AppraisalPolicy.leaving_tcb_to_caller()
    return tee, Verifier(tee.anchor(), tee.collateral_source(), memory=CollateralMemory(), policy=policy)


def join_driver(
    address: tuple[str, int], *, tee: SimulatedTee, verifier: Verifier, job: str, deadline: float
) -> AttestedChannel:
    """Prove oneself as a worker of ``job`` to the driver at ``address``; return the channel once admitted."""
    from strongroom.attestation.channel import connect
    from strongroom.attestation.roles import Role
    from strongroom.attestation.workload_keys import WorkloadKeys
    from strongroom.digests import parse_text
    from strongroom.workload.handover import Admission

    channel = connect(
        address,
        keys=WorkloadKeys.generate(),
        role=Role.WORKER,
        expected_role=Role.DRIVER,
        tee=tee,
        verifier=verifier,
        job_digest=parse_text(job),
        deadline=deadline,
    )
    Admission.decode(channel.receive(deadline=deadline))
    return channel


def admit_crowd(world: World, workers: int, *, directory: Path, tell: Callable[[str], None]) -> Admissions:
    """Start a job that sleeps, have ``workers`` admitted by its driver, and return what that took."""
    analyst = world.analyst
    with closing(analyst.attest_broker(world.broker_url)) as broker:
        submitted = analyst.submit(_write_job(world), broker=broker)
        launcher = analyst.launch(submitted, host=world.platform, engine="embedded", directory=directory)
        try:
            address = launcher.start_address
            client = analyst.attest_driver(submitted, address)
            analyst.hand_over(submitted, client, broker=broker)
            _wait_for("program-started", client)
            tee, verifier = prepare_worker(world, job=submitted.digest)
            channels = []

            def join(_number: int) -> float:
                started = time.monotonic()
                channels.append(
                    join_driver(address, tee=tee, verifier=verifier, job=submitted.digest, deadline=_START_SECONDS)
                )
                return time.monotonic() - started

            driver = psutil.Process(launcher.processes["driver"][0])
            brokers = psutil.Process(world.broker_process.pid)
            memory, before = driver.memory_info().rss, (_cpu(driver), _cpu(brokers))
            started = time.monotonic()
            with ThreadPoolExecutor(AT_ONCE) as crowd:
                waits = tuple(sorted(crowd.map(join, range(workers))))
            seconds = time.monotonic() - started
            after = (_cpu(driver), _cpu(brokers))
            gained = (driver.memory_info().rss - memory) / (1 << 20)
            tell(f"{workers} admitted in {seconds:.2f} s")
            for channel in channels:
                channel.close()
            client.close()
            return Admissions(
                workers=workers,
                seconds=seconds,
                driver_cpu=after[0] - before[0],
                broker_cpu=after[1] - before[1],
                driver_mebibytes=gained,
                waits=waits,
            )
        finally:
            launcher.stop()


def _write_job(world: World) -> Path:
    home = world.directory / "analyst"
    (home / "sleeper.py").write_text(SLEEPER)
    (dataset,) = [owner.dataset for owner in world.owners.values()]
    text = world.job_toml(program="sleeper.py", kind="python", outputs=["nothing"], columns={dataset: ["*"]})
    (home / "sleeper.toml").write_text(text)
    return home / "sleeper.toml"


def _wait_for(event: str, channel) -> None:
    until = time.monotonic() + _START_SECONDS
    while (said := channel.receive(deadline=_START_SECONDS)).get("type") != event:
        if said.get("type") == "failed" or time.monotonic() > until:
            raise RuntimeError(f"the job did not start: {said}")


def _cpu(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of those that it started."""
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)
