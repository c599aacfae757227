"""An Azure guest makes evidence from a real TPM's commands, and the verifier believes it with both bindings.

The TPM is swtpm, an emulator of the whole device; paravisor, machine and host services are played by the test.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from amd_vendor import AmdVendor
from paravisor import paravisor, services

from strongroom.attestation.appraisal import AppraisalPolicy, CollateralMemory, Verifier
from strongroom.attestation.azure_guest import AzureGuest
from strongroom.attestation.evidence.azure import parse_azure
from strongroom.attestation.providers import CHASSIS_TAG, TPM_DEVICE, AzureTee, detect
from strongroom.attestation.tee import NoTeeError, TeeDeviceError
from strongroom.attestation.tpm import PCRS, Tpm, TpmDevice, TpmError
from strongroom.errors import EvidenceError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED, AGAIN = bytes(range(64)), bytes(range(64, 128))
AMD = AmdVendor("Milan")


class Served:
    def collateral(self, quote: bytes) -> str:
        return AMD.endorsements(crl=AMD.crl(now=NOW))


@pytest.fixture(scope="module")
def machine():
    with paravisor(AMD) as made, services(AMD) as (url, answer):
        yield made, url, answer


@pytest.fixture
def guest(machine):
    made, url, answer = machine
    made.is_lazy, made.overwrites, answer.status = False, None, 200
    return AzureGuest(made.tpm, services=url, seconds=1.0, sleep=lambda _: None)


def test_evidence_made_through_the_tpm_is_appraised_with_both_bindings(guest) -> None:
    tee = AzureTee(guest, collateral=Served())
    policy = AppraisalPolicy.parse("[snp_minimum.Milan]\nsnp = 24\n")
    verifier = Verifier(AMD.anchor, Served(), memory=CollateralMemory(), policy=policy)
    for asked in (ASKED, AGAIN):
        result = verifier.appraise(tee.evidence(asked), report_data=asked, now=NOW)
        assert (result.tee, result.tcb_status) == ("azure-snp", "UpToDate")
        assert result.claims.to_json()["body"]["both_bindings"] is True
        assert result.measurement == tee.own_measurement
    assert tee.tee == "azure-snp"


def test_the_registers_quoted_are_the_tpms_own(machine, guest) -> None:
    registers = machine[0].tpm.read_registers()
    assert len(registers) == PCRS
    assert parse_azure(guest.evidence(ASKED)).tpm.pcrs == registers


def test_report_data_that_the_paravisor_does_not_take_up_ends_within_the_deadline(machine, guest) -> None:
    machine[0].is_lazy = True
    with pytest.raises(TeeDeviceError, match="did not take up") as refused:
        AzureGuest(machine[0].tpm, services=machine[1], seconds=0.2).evidence(AGAIN[::-1])
    assert "one process" in refused.value.hint


def test_another_process_that_writes_into_the_index_is_noticed(machine, guest) -> None:
    machine[0].overwrites = b"o" * 64
    with pytest.raises(TeeDeviceError, match="did not take up"):
        AzureGuest(machine[0].tpm, services=machine[1], seconds=0.2).evidence(ASKED)


def test_a_host_service_that_refuses_or_lies_gives_no_evidence(machine, guest) -> None:
    machine[2].status = 429
    with pytest.raises(TeeDeviceError, match="HTTP 429"):
        guest.evidence(ASKED)
    with pytest.raises(TeeDeviceError, match="gives no answer"):
        AzureGuest(machine[0].tpm, services="http://127.0.0.1:9", seconds=1.0).evidence(ASKED)


def test_a_trust_domains_report_is_sent_to_the_host_to_be_quoted() -> None:
    quote = b"a quote made by the host"
    with paravisor(AMD, kind=4) as made, services(AMD, quote=quote) as (url, answer):
        found = parse_azure(AzureGuest(made.tpm, services=url, seconds=1.0, sleep=lambda _: None).evidence(ASKED))
        assert (found.tee, found.hardware) == ("azure-tdx", quote)
        assert len(answer.asked[0]) == 1024


def test_an_index_that_is_not_there_and_a_device_that_is_not_there_say_so(machine, tmp_path: Path) -> None:
    with pytest.raises(TpmError, match="refused to look at an NV index"):
        machine[0].tpm.read_index(0x01400099)
    with pytest.raises(TeeDeviceError, match="cannot use"):
        Tpm(TpmDevice(tmp_path / "nothing")).read_registers()


@pytest.mark.parametrize("answer", [b"", b"\x80\x01", bytes(10), b"\x80\x01\x00\x00\x00\x0a" + bytes(4) + b"xx"])
def test_answers_that_are_no_tpms_are_refused(answer: bytes) -> None:
    class Line:
        def exchange(self, command: bytes) -> bytes:
            return answer

    with pytest.raises((TeeDeviceError, EvidenceError)):
        Tpm(Line()).read_registers()


def test_only_a_machine_of_azures_with_a_tpm_is_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / TPM_DEVICE).parent.mkdir(parents=True)
    (tmp_path / TPM_DEVICE).write_bytes(b"")
    with pytest.raises(NoTeeError):
        detect(root=tmp_path)
    (tmp_path / CHASSIS_TAG).parent.mkdir(parents=True)
    (tmp_path / CHASSIS_TAG).write_text("7783-7084-3265-9085-8269-3286-77\n")
    assert isinstance(detect(root=tmp_path), AzureTee)
