"""A worker in a process of its own, measured by the platform, joins over the channel; a changed one does not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

import strongroom
from strongroom.attestation.channel import PeerRefusedError
from strongroom.attestation.failures import MeasurementError
from strongroom.attestation.listener import Listener
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import to_text
from strongroom.testing import simulated_platform, simulated_tee, simulated_verifier

JOB = hashlib.sha384(b"job").digest()
WORKER = """
import sys
from strongroom.attestation import providers
from strongroom.attestation.appraisal import CollateralMemory, Verifier
from strongroom.attestation.channel import (connect)
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import parse_text
from strongroom.errors import EvidenceError

tee = providers.detect()
verifier = Verifier(tee.anchor(), tee.collateral_source(), memory=CollateralMemory())
try:
    channel = connect(
        ("127.0.0.1", int(sys.argv[1])), keys=WorkloadKeys.generate(), role=Role.WORKER, expected_role=Role.DRIVER,
        tee=tee, verifier=verifier, job_digest=parse_text(sys.argv[2]),
    )
except EvidenceError as error:
    sys.exit(error.exit_code)
channel.send({"driver": channel.peer.measurement, "said": channel.receive()})
channel.receive()
"""


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    source = Path(strongroom.__file__).parent
    target = tmp_path_factory.mktemp("copy") / "strongroom"
    for name in ("attestation", "envelope"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "answers.py", "errors.py", "digests.py", "statements.py"):
        shutil.copy(source / name, target / name)
    (target / "workload").mkdir()
    (target / "workload" / "__init__.py").write_text("")
    (target / "workload" / "worker.py").write_text(WORKER)
    return target


@pytest.fixture
def driver(platform, package):
    expected = platform.measure("worker", package_root=package)

    def only_the_published_worker(result):
        if result.measurement != expected:
            raise MeasurementError(f"{result.measurement} is not {expected}")

    with Listener(
        ("127.0.0.1", 0),
        keys=WorkloadKeys.generate(),
        role=Role.DRIVER,
        tee=simulated_tee("driver", platform=platform, job_digest=JOB),
        verifier=simulated_verifier(platform),
        job_digest=JOB,
        check=only_the_published_worker,
    ) as driver:
        yield driver


def start(platform, driver, package, *, job=JOB):
    arguments = [str(driver.address[1]), to_text(job)]
    return platform.start("worker", arguments, job_digest=to_text(job), package_root=package)


def test_a_published_worker_joins(platform, driver, package):
    worker = start(platform, driver, package)
    with driver.accept(deadline=30) as channel:
        channel.send({"hello": "worker"})
        assert channel.receive(deadline=30) == {"driver": platform.measure("driver"), "said": {"hello": "worker"}}
        assert channel.peer.measurement == worker.measurement
        channel.send({})
    assert worker.wait(30) == 0


def test_a_worker_with_one_changed_byte_is_refused_and_told_so(platform, driver, package, tmp_path):
    copy = tmp_path / "strongroom"
    shutil.copytree(package, copy)
    (copy / "workload" / "worker.py").write_text(WORKER + "\n")
    worker = start(platform, driver, copy)
    with pytest.raises(MeasurementError):
        driver.accept(deadline=30)
    assert worker.wait(30) == PeerRefusedError.exit_code


def test_a_published_worker_started_for_another_job_is_refused(platform, driver, package):
    worker = start(platform, driver, package, job=bytes(48))
    with pytest.raises(Exception, match="REPORTDATA"):
        driver.accept(deadline=30)
    assert worker.wait(30) == PeerRefusedError.exit_code
