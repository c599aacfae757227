"""The doctor finds what is wrong with a machine, a folder of collateral or a clock, and says what to do about it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.collateral_sources import CollateralFolder
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.simulated.pki import Vendor
from strongroom.cli.journey import run
from strongroom.parties.checkup import (
    Check,
    State,
    check_brokers,
    check_clock,
    check_collateral,
    check_interfaces,
    check_service,
    check_versions,
)
from strongroom.parties.home import Home
from strongroom.testing import CollateralDesk

NOW = datetime.now(UTC).replace(microsecond=0)
VENDOR = Vendor(b"d" * 32)
COLLATERAL = VENDOR.collateral("tdx", now=NOW)


def only(checks: object) -> Check:
    (found,) = checks
    return found


def lay_out(root: Path, *folders: str, **files: str) -> Path:
    for name in folders:
        (root / name).mkdir(parents=True)
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_versions_and_the_exporter_are_as_this_very_process_has_them() -> None:
    assert [one.state for one in check_versions()] == [State.OK, State.OK]


def test_a_machine_without_a_tee_is_told_that_its_workloads_are_not_protected(tmp_path: Path) -> None:
    found = only(check_interfaces(root=tmp_path))
    assert (found.state, "protects nothing" in found.remedy) == (State.WARN, True)


def test_a_complete_trust_domain_is_all_well(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        "sys/kernel/config/tsm/report",
        "sys/devices/virtual/misc/tdx_guest/measurements",
        sys__firmware__acpi__tables__data__CCEL="log",
    )
    found = tuple(check_interfaces(root=root, release="6.16.3-arch"))
    assert [(one.name, one.state) for one in found] == [
        ("tee", State.OK),
        ("registers", State.OK),
        ("event log", State.OK),
    ]


def test_an_older_trust_domain_is_told_what_to_update(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "sys/kernel/config/tsm/report")
    registers, log = tuple(check_interfaces(root=root, release="6.8.0-31-generic"))[1:]
    assert (registers.state, registers.remedy) == (State.WARN, "update to Linux 6.16 or later")
    assert (log.state, "CCEL" in log.remedy) == (State.WARN, True)


@pytest.mark.parametrize(
    ("release", "remedy"),
    [("6.1.0-18-amd64", "update to Linux 6.7 or later"), ("6.8.0", "mount -t configfs none /sys/kernel/config")],
)
def test_a_guest_without_configfs_fails_with_the_one_thing_to_do(tmp_path: Path, release: str, remedy: str) -> None:
    found = only(check_interfaces(root=lay_out(tmp_path, **{"dev__sev-guest": ""}), release=release))
    assert (found.state, found.remedy) == (State.FAIL, remedy)


def test_gramine_attests_by_dcap_or_fails(tmp_path: Path) -> None:
    for kind, state in (("dcap", State.OK), ("none", State.FAIL)):
        root = lay_out(tmp_path / kind, dev__attestation__attestation_type=kind + "\n")
        assert only(check_interfaces(root=root)).state is state


def test_a_machine_of_azures_attests_through_its_tpm_and_another_tpm_counts_for_nothing(tmp_path: Path) -> None:
    root = lay_out(tmp_path, dev__tpmrm0="")
    assert only(check_interfaces(root=root)).state is State.WARN
    lay_out(root, sys__class__dmi__id__chassis_asset_tag="7783-7084-3265-9085-8269-3286-77\n")
    assert only(check_interfaces(root=root)).state is State.OK


def test_collateral_is_judged_by_what_runs_out_first(tmp_path: Path) -> None:
    CollateralFolder(tmp_path).add(COLLATERAL)
    end = parse_collateral(COLLATERAL).expires
    for before, state in ((20, State.OK), (8, State.WARN), (1, State.WARN), (-1, State.FAIL)):
        found = only(check_collateral(tmp_path, now=end - timedelta(days=before)))
        assert (found.state, bool(found.remedy)) == (state, state is not State.OK), before
        assert found.found.startswith("tdx-")


def test_a_folder_that_is_empty_absent_or_damaged_is_said_to_be(tmp_path: Path) -> None:
    assert only(check_collateral(tmp_path, now=NOW)).state is State.WARN
    assert only(check_collateral(tmp_path / "nothing", now=NOW)).state is State.FAIL
    (tmp_path / "sgx-00906ED50000-platform.json").write_text("{}")
    assert only(check_collateral(tmp_path, now=NOW)).state is State.FAIL


def test_a_clock_that_is_not_synchronised_warns_and_one_set_back_fails(tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    anchor = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
    CollateralMemory.at(memory).remember(parse_collateral(COLLATERAL), anchor=anchor, now=NOW)
    assert [one.state for one in check_clock(now=NOW, memory=memory, ask=lambda: 0)] == [State.OK, State.OK]
    back = tuple(check_clock(now=NOW - timedelta(days=1), memory=memory, ask=lambda: 5))
    assert [one.state for one in back] == [State.WARN, State.FAIL]
    assert "set it right" in back[1].remedy
    memory.write_text("damaged")
    assert tuple(check_clock(now=NOW, memory=memory, ask=lambda: 0))[1].state is State.FAIL


def test_a_service_answers_with_a_clock_like_ours_or_fails() -> None:
    desk = CollateralDesk({"tdx": COLLATERAL})
    threading.Thread(target=desk.serve_forever, daemon=True).start()
    try:
        assert only(check_service(desk.url, now=datetime.now(UTC))).state is State.OK
        apart = only(check_service(desk.url, now=datetime.now(UTC) + timedelta(hours=3)))
        assert (apart.state, "away from ours" in apart.found) == (State.FAIL, True)
    finally:
        desk.shutdown()
        desk.server_close()
    assert only(check_service("http://127.0.0.1:9", now=NOW)).state is State.FAIL
    assert only(check_service("ftp://127.0.0.1", now=NOW)).state is State.FAIL


def test_trusting_no_broker_warns(tmp_path: Path) -> None:
    assert only(check_brokers(Home(tmp_path))).state is State.WARN


def test_the_verb_prints_lines_or_json_and_exits_1_only_for_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["attest", "doctor", "--home", str(tmp_path / "home")]
    assert run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in said["checks"]} >= {"versions", "tls", "tee", "clock", "broker"}
    assert said["fail"] == 0
    assert run([*words, "--collateral", str(tmp_path / "nothing")]) == 1
    out = capsys.readouterr().out
    assert "fail  collateral" in out
    assert "what to do:" in out
