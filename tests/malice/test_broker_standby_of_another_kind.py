"""Something asks a running broker for its store's key that is not the same broker on a sound platform."""

import shutil

import pytest
from scene import Scene

from strongroom.attestation.simulated.inside import SimulatedTee
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.broker.calls import BrokerRefusedError
from strongroom.broker.handover import handover_info, rule_on_standby, standby_report_data
from strongroom.envelope.hpke import KemKey, SealedMessageError
from strongroom.errors import StrongroomError, UsageError

KEM = KemKey.generate()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("scene"), kind="tdx")
    scene.custodians = [scene.airline, scene.weather]
    scene.client_ = scene.ready()
    yield scene
    scene.close()


def ask(scene, tee, *, nonce=None, kem=KEM.public, bound_kem=None, spki=None):
    client = scene.client_
    nonce = nonce or client.nonce()
    bound = standby_report_data(nonce=nonce, kem=bound_kem or kem, broker_spki=spki or client.tls_spki)
    return nonce, client.ask_for_handover(nonce=nonce, kem=kem, evidence=tee.evidence(bound))


def broker(scene, **more):
    return SimulatedTee.of(scene.platform.enclave("broker", **{"package_root": scene.package, **more}))


def test_the_same_broker_is_handed_the_key_sealed_to_it_alone_and_the_ledger_says_so(scene):
    size = scene.client_.checkpoint().size
    nonce, sealed = ask(scene, broker(scene))
    info = handover_info(nonce=nonce, origin=scene.client_.ledger_key.origin)
    assert len(KEM.open(sealed, info=info)) == 32
    with pytest.raises(SealedMessageError):
        KemKey.generate().open(sealed, info=info)
    entry = scene.client_.verified_entry(size)
    assert (entry.kind.value, entry.facts["measurement"]) == ("handover", scene.measure("broker"))


def test_another_version_another_role_and_another_machine_are_refused(scene, tmp_path):
    newer = shutil.copytree(scene.package, tmp_path / "newer" / "strongroom")
    with (newer / "__init__.py").open("a") as stream:
        stream.write("\n# newer, or older\n")
    with pytest.raises(BrokerRefusedError) as refused:
        ask(scene, broker(scene, package_root=newer))
    assert "another version is unsealed by the custodians" in refused.value.reasons[0]
    with pytest.raises(BrokerRefusedError) as refused:
        ask(scene, SimulatedTee.of(scene.platform.enclave("driver", package_root=scene.package)))
    assert refused.value.index > 0  # it stands in the ledger
    elsewhere = SimulatedPlatform(tmp_path / "elsewhere", tee="tdx")
    with pytest.raises(BrokerRefusedError):
        ask(scene, SimulatedTee.of(elsewhere.enclave("broker", package_root=scene.package)))


def test_evidence_for_another_key_broker_or_occasion_is_refused(scene):
    with pytest.raises(BrokerRefusedError, match="handover"):
        ask(scene, broker(scene), bound_kem=KemKey.generate().public)
    with pytest.raises(BrokerRefusedError):
        ask(scene, broker(scene), spki=b"another broker's key")
    nonce, _ = ask(scene, broker(scene))
    with pytest.raises(StrongroomError):
        ask(scene, broker(scene), nonce=nonce)


def test_a_platform_that_is_not_up_to_date_is_refused():
    class Result:
        measurement, tcb_status = "tdx:aa", "OutOfDate"

    assert rule_on_standby(Result, own_measurement="tdx:aa") == ("its platform is OutOfDate, expected UpToDate",)
    assert len(rule_on_standby(Result, own_measurement="tdx:bb")) == 2
    Result.tcb_status = "UpToDate"
    assert rule_on_standby(Result, own_measurement="tdx:aa") == ()


@pytest.mark.slow
def test_a_broker_whose_tee_seals_hands_over_nothing(tmp_path):
    scene = Scene(tmp_path)
    try:
        scene.client_ = scene.ready()
        with pytest.raises(UsageError, match="the TEE seals"):
            ask(scene, broker(scene))
    finally:
        scene.close()
