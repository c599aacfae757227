"""The simulated platform measures what it starts, starts what it measured, and outlives none of it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

import strongroom
from strongroom.attestation.appraisal import TrustAnchor, Verifier
from strongroom.attestation.evidence import Evidence, parse_quote
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated import FD_VARIABLE, Faults, SimulatedPlatform, SimulatedTee
from strongroom.attestation.simulated.measuring import measure, read_tree
from strongroom.attestation.tee import TeeCapabilityError
from strongroom.digests import to_text
from strongroom.errors import EvidenceError, StrongroomError, UsageError
from strongroom.testing import simulated_tee, simulated_verifier

JOB = bytes(range(48))
WORKER = """
import base64, json, os, subprocess, sys
import strongroom
from strongroom.attestation import providers
from strongroom.errors import StrongroomError

tee = providers.detect()
assert providers.detect() is tee
counter = tee.counter("store")
evidence = tee.evidence(b"r" * 64)
probe = "import os, socket; socket.socket(fileno=int(os.environ['%s']))" % "STRONGROOM_SIMULATED_TEE_FD"
child = subprocess.run([sys.executable, "-c", probe], close_fds=False, capture_output=True)
facts = {
    "file": strongroom.__file__,
    "argv": sys.argv[1:],
    "environ": dict(os.environ),
    "cwd": os.getcwd(),
    "quote": base64.b64encode(evidence.quote).decode(),
    "tee": tee.tee,
    "simulated": [tee.simulated, tee.anchor().simulated],
    "own": tee.own_measurement,
    "sealing": [tee.sealing_key("store", terms="").hex(), tee.sealing_key("other", terms="").hex()],
    "counter": counter.read(),
    "child_has_a_tee": child.returncode == 0,
    "flavour": open(os.path.dirname(strongroom.__file__) + "/workload/flavour.txt").read(),
}
counter.advance_to(facts["counter"] + 1)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with a small worker of our own, and room for more copies beside it."""
    source = Path(strongroom.__file__).parent
    target = tmp_path_factory.mktemp("copy") / "strongroom"
    for name in ("attestation", "envelope"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "answers.py", "errors.py", "digests.py", "statements.py"):
        shutil.copy(source / name, target / name)
    (target / "workload").mkdir()
    (target / "workload" / "__init__.py").write_text("")
    (target / "workload" / "worker.py").write_text(WORKER)
    (target / "workload" / "flavour.txt").write_text("plain")
    return target


def changed_copy(package, directory):
    copy = directory / "strongroom"
    shutil.copytree(package, copy)
    flavour = copy / "workload" / "flavour.txt"
    flavour.write_text("plaiN")  # one bit
    return copy


def run_worker(platform, package, *argv, **options):
    process = platform.start("worker", argv, package_root=package, stdout=subprocess.PIPE, **options)
    out = process.stdout.read()
    assert process.wait(30) == 0
    return json.loads(out)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    return SimulatedPlatform(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def facts(platform, package):
    os.environ["SECRET_OF_THE_HOST"] = "never shown"
    os.environ["LD_PRELOAD_X"] = "never shown"
    try:
        return run_worker(platform, package, "--a", "b", job_digest=to_text(JOB), env={"STRONGROOM_LOG": "debug"})
    finally:
        del os.environ["SECRET_OF_THE_HOST"], os.environ["LD_PRELOAD_X"]


def test_a_started_worker_gets_a_quote_over_its_measurement_and_job(platform, package, facts):
    quote = parse_quote(base64.b64decode(facts["quote"]))
    assert quote.measurement == facts["own"] == platform.measure("worker", package_root=package)
    assert quote.report_data == b"r" * 64
    assert quote.report.configid == JOB + bytes(16)
    result = simulated_verifier(platform).appraise(
        Evidence(tee="sgx", quote=base64.b64decode(facts["quote"])), report_data=b"r" * 64, now=datetime.now(UTC)
    )
    assert result.measurement == facts["own"]


def test_a_started_worker_knows_that_it_is_simulated(facts):
    assert facts["simulated"] == [True, True]
    assert facts["tee"] == "sgx"


def test_a_started_worker_runs_from_the_measured_copy_and_not_from_the_installed_package(platform, facts):
    assert facts["file"].startswith(str(platform.directory / "trees"))


def test_a_started_worker_sees_none_of_the_hosts_environment(facts):
    seen = set(facts["environ"])
    assert "SECRET_OF_THE_HOST" not in seen
    assert not {name for name in seen if name.startswith("LD_")}
    assert facts["environ"]["STRONGROOM_LOG"] == "debug"
    assert facts["environ"]["PYTHONPATH"].startswith("/")
    assert facts["argv"] == ["--a", "b"]


def test_what_a_worker_starts_has_no_tee(facts):
    assert facts["child_has_a_tee"] is False


def test_sealing_keys_survive_a_restart_and_differ_by_label_and_by_measurement(platform, package, facts, tmp_path):
    again = run_worker(platform, package)
    other = run_worker(platform, changed_copy(package, tmp_path))
    assert again["sealing"] == facts["sealing"]
    assert len({*facts["sealing"], *other["sealing"]}) == 4


def test_a_counter_survives_a_restart_and_belongs_to_one_measurement(tmp_path, package):
    platform = SimulatedPlatform(tmp_path / "platform")
    other = changed_copy(package, tmp_path)
    assert [run_worker(platform, package)["counter"] for _ in range(2)] == [0, 1]
    assert run_worker(SimulatedPlatform(tmp_path / "platform"), package)["counter"] == 2
    assert run_worker(platform, other)["counter"] == 0


def test_one_changed_bit_of_code_changes_the_measurement_of_every_role(platform, package, tmp_path):
    copy = changed_copy(package, tmp_path)
    for role in ("broker", "driver", "worker", "egress"):
        assert platform.measure(role, package_root=copy) != platform.measure(role, package_root=package)


def test_each_role_measures_differently(platform):
    assert len({platform.measure(role) for role in ("broker", "driver", "worker", "egress")}) == 4


def test_bytecode_and_hidden_files_are_neither_measured_nor_run(platform, package, tmp_path):
    copy = tmp_path / "strongroom"
    shutil.copytree(package, copy)
    before = platform.measure("worker", package_root=copy)
    cache = copy / "__pycache__"
    cache.mkdir()
    (cache / "digests.cpython-311.pyc").write_bytes(b"not bytecode at all")
    (copy / ".hidden.py").write_text("raise SystemExit(3)")
    assert platform.measure("worker", package_root=copy) == before
    assert run_worker(platform, copy)["own"] == before


def test_code_changed_after_the_start_does_not_reach_the_running_tree(platform, package, tmp_path):
    copy = tmp_path / "strongroom"
    shutil.copytree(package, copy)
    first = run_worker(platform, copy)
    (copy / "workload" / "flavour.txt").write_text("evil")
    assert Path(first["file"]).parent.joinpath("workload/flavour.txt").read_text() == "plain"
    second = run_worker(platform, copy)
    assert (second["flavour"], second["own"] != first["own"]) == ("evil", True)


def test_a_placed_tree_that_somebody_changed_is_replaced_before_it_runs(platform, package):
    placed = Path(run_worker(platform, package)["file"]).parent
    (placed / "workload" / "flavour.txt").write_text("evil")
    assert run_worker(platform, package)["flavour"] == "plain"


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "PYTHONSTARTUP", "JAVA_TOOL_OPTIONS", FD_VARIABLE])
def test_a_variable_that_could_replace_code_is_refused(platform, name):
    with pytest.raises(UsageError, match=name):
        platform.start("worker", [], env={name: "x"})


def test_a_client_cannot_be_started_in_a_tee(platform):
    with pytest.raises(UsageError, match="client"):
        platform.start("client", [])


def test_a_folder_that_is_not_the_package_is_refused(platform, tmp_path):
    with pytest.raises(UsageError, match="not a strongroom package"):
        platform.measure("worker", package_root=tmp_path)


@pytest.mark.parametrize("text", ["sha256:" + "00" * 32, "nonsense"])
def test_a_job_digest_of_another_kind_is_refused(platform, text):
    with pytest.raises(StrongroomError):
        platform.enclave("worker", job_digest=text)


def test_a_tdx_platform_measures_into_its_registers(tmp_path, package):
    platform = SimulatedPlatform(tmp_path, tee="tdx")
    tee = simulated_tee("worker", platform=platform, job_digest=JOB)
    quote = parse_quote(tee.evidence(bytes(64)).quote)
    assert quote.measurement == tee.own_measurement == platform.measure("worker")
    assert quote.report.mrconfigid == JOB
    other = parse_quote(simulated_tee("driver", platform=platform).evidence(bytes(64)).quote)
    assert (other.report.mrtd, other.report.rtmrs[1]) == (quote.report.mrtd, quote.report.rtmrs[1])
    assert other.report.rtmrs[2] != quote.report.rtmrs[2]  # entry point and role


def test_the_seed_is_private_and_the_root_stays(tmp_path):
    root = SimulatedPlatform(tmp_path / "p").root_der
    assert (tmp_path / "p" / "seed").stat().st_mode & 0o777 == 0o600
    assert SimulatedPlatform(tmp_path / "p").root_der == root


def test_a_seed_that_others_may_read_is_refused(tmp_path):
    SimulatedPlatform(tmp_path)
    (tmp_path / "seed").chmod(0o644)
    with pytest.raises(UsageError, match="private"):
        SimulatedPlatform(tmp_path)


def test_a_truncated_seed_is_refused(tmp_path):
    SimulatedPlatform(tmp_path)
    (tmp_path / "seed").write_bytes(b"short")
    with pytest.raises(UsageError, match="32 bytes"):
        SimulatedPlatform(tmp_path)


def test_what_a_platform_exposes_is_enough_to_verify_its_quotes(tmp_path):
    platform = SimulatedPlatform(tmp_path)
    root, collateral = platform.expose()

    class Copied:
        def collateral(self, quote):
            return collateral.read_text()

    anchor = TrustAnchor(root_der=root.read_bytes(), simulated=True)
    verifier = Verifier(anchor, Copied(), memory=CollateralMemory())
    evidence = simulated_tee("broker", platform=platform).evidence(bytes(64))
    assert verifier.appraise(evidence, report_data=bytes(64), now=datetime.now(UTC)).simulated


def test_a_workload_with_a_fault_is_refused(tmp_path):
    platform = SimulatedPlatform(tmp_path)
    tee = simulated_tee("worker", platform=platform, faults=Faults(debug=True))
    with pytest.raises(EvidenceError) as refused:
        simulated_verifier(platform).appraise(tee.evidence(bytes(64)), report_data=bytes(64), now=datetime.now(UTC))
    assert refused.value.step == "attributes"


@pytest.mark.parametrize("value", [6, 7])
def test_a_counter_grows_or_refuses(tmp_path, value):
    counter = simulated_tee("broker", platform=SimulatedPlatform(tmp_path)).counter("store")
    counter.advance_to(7)
    with pytest.raises(StrongroomError, match="holds 7"):
        counter.advance_to(value)
    assert counter.read() == 7


@pytest.mark.parametrize("value", [-1, 1 << 63])
def test_a_counter_refuses_what_it_cannot_hold(tmp_path, value):
    counter = simulated_tee("broker", platform=SimulatedPlatform(tmp_path)).counter("store")
    with pytest.raises(StrongroomError):
        counter.advance_to(value)


@pytest.mark.parametrize(
    "request_", [{}, {"call": "quote"}, {"call": "quote", "report_data": "AAAA"}, {"call": "become_root"}, {"call": []}]
)
def test_a_malformed_request_gets_an_error_and_no_quote(tmp_path, request_):
    answer = SimulatedPlatform(tmp_path).enclave("worker").answer(request_)
    assert set(answer) == {"error", "hint"}


def sleeping_package(package, directory, *, seconds=60):
    copy = directory / "strongroom"
    shutil.copytree(package, copy)
    (copy / "workload" / "worker.py").write_text(
        "import subprocess, time\nfrom strongroom.attestation import providers\nproviders.detect()\n"
        "child = subprocess.Popen(['sleep', '10'])\nprint(child.pid, flush=True)\n"
        f"time.sleep({seconds})\n"
    )
    return copy


def gone(pid, seconds=5.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_kill_ends_a_worker_and_what_it_started(platform, package, tmp_path):
    process = platform.start("worker", [], package_root=sleeping_package(package, tmp_path), stdout=subprocess.PIPE)
    grandchild = int(process.stdout.readline())
    process.kill()
    assert process.wait(5) == -signal.SIGKILL
    assert gone(grandchild)


def test_stop_is_polite_first(platform, package, tmp_path):
    process = platform.start("worker", [], package_root=sleeping_package(package, tmp_path), stdout=subprocess.PIPE)
    grandchild = int(process.stdout.readline())
    assert process.poll() is None
    assert process.stop(grace=5) == -signal.SIGTERM
    assert gone(grandchild)


def test_what_a_worker_started_ends_with_the_worker(platform, package, tmp_path):
    process = platform.start(
        "worker", [], package_root=sleeping_package(package, tmp_path, seconds=0.1), stdout=subprocess.PIPE
    )
    grandchild = int(process.stdout.readline())
    assert process.wait() == 0
    assert gone(grandchild)


def test_waiting_for_a_worker_has_a_deadline(platform, package, tmp_path):
    process = platform.start("worker", [], package_root=sleeping_package(package, tmp_path))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.kill()


def test_a_worker_dies_with_the_platform_that_started_it(package, tmp_path):
    launcher = (
        "import subprocess, sys, threading, time\nfrom pathlib import Path\n"
        "from strongroom.attestation.simulated import SimulatedPlatform\n"
        "platform = SimulatedPlatform(Path(sys.argv[1]))\n"
        # The thread that asks for the start ends at once, and the worker must not end with it.
        "def go():\n"
        "    started.append(platform.start('worker', [], package_root=Path(sys.argv[2]), stdout=subprocess.PIPE))\n"
        "started = []\nthread = threading.Thread(target=go)\nthread.start()\nthread.join()\n"
        "started[0].stdout.readline()\ntime.sleep(0.2)\n"
        "print(started[0].pid, started[0].poll(), flush=True)\ntime.sleep(60)\n"
    )
    copy = sleeping_package(package, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", launcher, str(tmp_path / "platform"), str(copy)], stdout=subprocess.PIPE, text=True
    )
    worker, status = process.stdout.readline().split()
    assert status == "None"
    process.kill()
    process.wait(5)
    assert gone(int(worker))


def test_a_simulated_trust_domain_offers_no_sealing_key_and_no_counter_as_a_real_one(tmp_path):
    enclave = SimulatedPlatform(tmp_path, tee="tdx").enclave("broker")
    tee = SimulatedTee.of(enclave)
    for ask in (tee.sealing_terms, lambda: tee.sealing_key("store", terms=""), lambda: tee.counter("store")):
        with pytest.raises(TeeCapabilityError, match="as a real one has none"):
            ask()
    for call in ("sealing_key", "counter_read", "counter_advance"):
        assert "neither sealing keys nor counters" in enclave.answer({"call": call, "label": "store"})["error"]


@pytest.mark.parametrize(
    ("extra", "measured"), [("learning", True), ("notebook", False), ("hsm", False), ("k8s", False)]
)
def test_what_programs_import_is_measured_and_what_parties_use_at_home_is_not(tmp_path, package, extra, measured):
    """Otherwise an owner who installs what talks to an HSM would no longer trust the broker, nor it open its store."""
    site, interpreter = tmp_path / "site", tmp_path / "python"
    interpreter.write_text("any binary")
    _install(site, "strongroom", f"Requires-Dist: tool; extra == '{extra}'\n")
    tree = read_tree(package)
    before = measure(Role.WORKER, tree, interpreter=interpreter, site=site).text("sgx")
    _install(site, "tool", "")
    os.utime(site, ns=(0, 0))  # the directory's time is the key of what is remembered of it
    assert (measure(Role.WORKER, tree, interpreter=interpreter, site=site).text("sgx") != before) is measured


def _install(site, name, requires):
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
    (folder / "RECORD").write_text(f"{name}.py,sha256=abc,3\n")
