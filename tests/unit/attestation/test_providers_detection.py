"""Finding the TEE: real interfaces first, and no environment variable ever lowers the anchor."""

from __future__ import annotations

import os
import socket

import pytest

from strongroom.attestation import providers
from strongroom.attestation.anchors import INTEL
from strongroom.attestation.collateral_sources import CollateralFolder
from strongroom.attestation.providers import GRAMINE_DEVICE, TSM_REPORTS, GramineTee, TdxTee, detect
from strongroom.attestation.simulated import FD_VARIABLE, SimulatedPlatform
from strongroom.attestation.simulated.inside import SimulatedTee
from strongroom.attestation.simulated.line import LineError
from strongroom.attestation.tee import NoTeeError
from strongroom.errors import UsageError


@pytest.fixture
def gramine(tmp_path):
    device = tmp_path / GRAMINE_DEVICE
    device.mkdir(parents=True)
    (device / "attestation_type").write_text("dcap")
    return tmp_path


@pytest.fixture
def guest(tmp_path):
    (tmp_path / TSM_REPORTS).mkdir(parents=True)
    return tmp_path


@pytest.fixture(autouse=True)
def _forget_what_was_inherited():
    yield
    providers._inherit_simulated.cache_clear()


def test_without_any_interface_there_is_no_tee(tmp_path):
    with pytest.raises(NoTeeError) as refused:
        detect(root=tmp_path)
    assert "launcher" in refused.value.hint


def test_gramine_is_found_and_anchored_in_intel(gramine):
    tee = detect(root=gramine)
    assert isinstance(tee, GramineTee)
    assert (tee.tee, tee.simulated, tee.anchor()) == ("sgx", False, INTEL)


def test_a_tdx_guest_is_found_and_anchored_in_intel(guest):
    tee = detect(root=guest)
    assert isinstance(tee, TdxTee)
    assert (tee.tee, tee.simulated, tee.anchor()) == ("tdx", False, INTEL)


@pytest.mark.parametrize("real", ["gramine", "guest"])
def test_an_inherited_simulated_socket_never_replaces_a_real_tee(real, request, monkeypatch):
    root = request.getfixturevalue(real)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setenv(FD_VARIABLE, str(theirs.fileno()))
        with pytest.raises(NoTeeError, match="real TEE"):
            detect(root=root)


@pytest.mark.parametrize("real", ["gramine", "guest"])
def test_no_environment_variable_changes_a_real_tees_anchor(real, request, monkeypatch, tmp_path):
    root = request.getfixturevalue(real)
    simulated_root = SimulatedPlatform(tmp_path / "platform").expose()[0]
    for name in (
        "STRONGROOM_ROOT",
        "STRONGROOM_ANCHOR",
        "STRONGROOM_TRUST_ANCHOR",
        "STRONGROOM_SIMULATED",
        "STRONGROOM_SIM",
        "STRONGROOM_ALLOW_SIMULATED",
        "STRONGROOM_SIMULATED_TEE",
        "STRONGROOM_INSECURE",
        "STRONGROOM_DEBUG",
        "SGX_ROOT_CA",
        "RA_TLS_ALLOW_DEBUG_ENCLAVE_INSECURE",
        "SSL_CERT_FILE",
    ):
        monkeypatch.setenv(name, str(simulated_root))
    anchor = detect(root=root).anchor()
    assert anchor is INTEL
    assert not anchor.simulated


def test_the_only_variable_that_detection_reads_is_the_simulated_socket(gramine, monkeypatch):
    read = []

    class Watched(dict):
        def get(self, name, default=None):
            read.append(name)
            return super().get(name, default)

        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    monkeypatch.setattr(os, "environ", Watched(os.environ))
    detect(root=gramine).anchor()
    assert read == [FD_VARIABLE]


@pytest.mark.parametrize("value", ["", "-1", "three", "3 "])
def test_a_malformed_descriptor_is_no_tee(tmp_path, monkeypatch, value):
    monkeypatch.setenv(FD_VARIABLE, value)
    with pytest.raises(NoTeeError, match="file descriptor"):
        detect(root=tmp_path)


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path, monkeypatch):
    with (tmp_path / "file").open("w") as stream:
        monkeypatch.setenv(FD_VARIABLE, str(stream.fileno()))
        with pytest.raises(LineError, match="not the simulated TEE's socket"):
            detect(root=tmp_path)


def test_a_platform_that_is_gone_is_said_to_be_gone(tmp_path, monkeypatch):
    ours, theirs = socket.socketpair()
    ours.close()
    monkeypatch.setenv(FD_VARIABLE, str(theirs.detach()))
    with pytest.raises(LineError, match="closed"):
        detect(root=tmp_path)


def test_a_forked_process_has_no_tee(tmp_path):
    from strongroom.attestation.simulated.platform import _serve

    platform = SimulatedPlatform(tmp_path)
    ours, theirs = socket.socketpair()
    import threading

    threading.Thread(target=_serve, args=(platform.enclave("worker"), ours), daemon=True).start()
    tee = SimulatedTee.inherit(theirs.detach())
    assert tee.sealing_key("a", terms="") == tee.sealing_key("a", terms="")
    pid = os.fork()
    if pid == 0:
        try:
            tee.sealing_key("a", terms="")
        except LineError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_real_tee_without_a_source_of_collateral_verifies_nobody(gramine):
    with pytest.raises(UsageError, match="collateral"):
        detect(root=gramine).collateral_source()


def test_real_tee_takes_its_collateral_from_the_folder_that_is_mounted(gramine):
    with pytest.raises(UsageError, match="collateral"):
        detect(root=gramine).collateral_source()
    (gramine / "etc/strongroom/collateral").mkdir(parents=True)
    assert isinstance(detect(root=gramine).collateral_source(), CollateralFolder)
