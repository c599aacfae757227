"""The files of a Gramine enclave, emulated in a folder."""

from __future__ import annotations

import pytest

from strongroom.attestation.evidence import parse_quote
from strongroom.attestation.providers import GramineTee
from strongroom.attestation.simulated import SimulatedPlatform
from strongroom.attestation.tee import NoTeeError, TeeCapabilityError, TeeDeviceError
from strongroom.errors import UsageError
from strongroom.testing import simulated_tee


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    return simulated_tee("worker", platform=SimulatedPlatform(tmp_path_factory.mktemp("cpu")))


@pytest.fixture
def device(tmp_path):
    (tmp_path / "attestation_type").write_text("dcap\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "_sgx_mrenclave").write_bytes(bytes(range(16)))
    return tmp_path


def test_evidence_is_the_quote_over_what_was_asked(device, cpu):
    asked = b"a" * 64
    (device / "quote").write_bytes(cpu.evidence(asked).quote)
    evidence = GramineTee(device, collateral=None).evidence(asked)
    assert (device / "user_report_data").read_bytes() == asked
    assert parse_quote(evidence.quote).report_data == asked


def test_a_quote_over_other_report_data_never_leaves(device, cpu):
    (device / "quote").write_bytes(cpu.evidence(b"b" * 64).quote)
    with pytest.raises(TeeDeviceError, match="other report data"):
        GramineTee(device, collateral=None).evidence(b"a" * 64)


def test_something_that_is_no_quote_never_leaves(device):
    (device / "quote").write_bytes(b"hello")
    with pytest.raises(TeeDeviceError, match="not a quote"):
        GramineTee(device, collateral=None).evidence(b"a" * 64)


def test_own_measurement_comes_from_a_quote(device, cpu):
    (device / "quote").write_bytes(cpu.evidence(bytes(64)).quote)
    assert GramineTee(device, collateral=None).own_measurement == cpu.own_measurement


def test_an_enclave_without_dcap_is_no_tee(device):
    (device / "attestation_type").write_text("none")
    with pytest.raises(NoTeeError, match="dcap") as refused:
        GramineTee(device, collateral=None)
    assert "manifest" in refused.value.hint


def test_a_missing_file_is_named(device):
    with pytest.raises(TeeDeviceError, match="quote"):
        GramineTee(device, collateral=None).evidence(bytes(64))


def test_sealing_keys_differ_by_label_and_follow_the_cpus_key(device):
    tee = GramineTee(device, collateral=None)
    first, other = tee.sealing_key("store", terms=""), tee.sealing_key("log", terms="")
    assert len(first) == len(other) == 32
    assert first != other
    (device / "keys" / "_sgx_mrenclave").write_bytes(bytes(16))
    assert tee.sealing_key("store", terms="") != first


def test_a_sealing_key_of_another_length_is_refused(device):
    (device / "keys" / "_sgx_mrenclave").write_bytes(bytes(8))
    with pytest.raises(TeeDeviceError, match="16 bytes"):
        GramineTee(device, collateral=None).sealing_key("store", terms="")


def test_there_is_no_counter_to_pretend_with(device):
    with pytest.raises(TeeCapabilityError):
        GramineTee(device, collateral=None).counter("store")


@pytest.mark.parametrize("size", [0, 32, 65])
def test_report_data_of_another_length_is_refused(device, size):
    with pytest.raises(UsageError, match="64 bytes"):
        GramineTee(device, collateral=None).evidence(bytes(size))
