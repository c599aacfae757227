"""The operator, who has machines, disk and network, tries to open the store of a broker that custodians unseal."""

import asyncio
import itertools
import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene import Party, Scene

from strongroom.attestation.failures import MeasurementError
from strongroom.attestation.simulated.inside import SimulatedTee
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.broker.calls import SealedBrokerError
from strongroom.broker.custodians import (
    CustodianSeal,
    OpenByCustodians,
    SealRecordError,
    WrongContributionError,
    contribute,
    deal,
    parse_seal,
    sealed_ledger,
    unseal_info,
)
from strongroom.broker.keys import BrokerKeys
from strongroom.broker.orders import Order, sign_order
from strongroom.broker.requests import decode64, encode64
from strongroom.broker.sealed_service import SealedService
from strongroom.broker.sessions import Nonces, StaleNonceError
from strongroom.broker.vigil import CONTRIBUTION_SECONDS, Vigil
from strongroom.catalog.sealing import SealError
from strongroom.catalog.store import Change, ClosedStore, LedgerEnd
from strongroom.digests import bytes_digest
from strongroom.envelope.hpke import SealedMessageError, seal
from strongroom.envelope.keys import DataKey, InvalidKeyError, reveal
from strongroom.errors import StrongroomError, TransportError
from strongroom.ledger.memory import RolledBackError
from strongroom.statements import PartyId, SigningKey

STORE = b"s" * 32
END = LedgerEnd(size=0, root=bytes(32), write=lambda cursor: None)
PARTIES = [Party(name) for name in ("airline", "weather", "port")]


def parts(parties, store=STORE):
    return {party.id: contribute(party.key, store=store) for party in parties}


# All contributions but one, and the disk.


def test_all_contributions_open_the_store_and_all_but_one_do_not():
    key = DataKey.generate()
    dealt = parse_seal(deal(key, parts(PARTIES), store=STORE, ledger="ledger").encode())
    assert dealt.open(parts(PARTIES)) == key
    for missing in PARTIES:
        some = parts([party for party in PARTIES if party is not missing])
        with pytest.raises(SealRecordError, match=f"without {missing.id}"):
            dealt.open(some)
        for guess in (bytes(32), reveal(next(iter(some.values()))), reveal(contribute(missing.key, store=b"t" * 32))):
            with pytest.raises(SealRecordError, match="does not open"):
                dealt.open({**some, missing.id: DataKey(guess)})
            with pytest.raises(WrongContributionError):
                dealt.check(missing.id, DataKey(guess))


@given(st.data())
def test_a_changed_seal_opens_nothing(data):
    dealt = deal(DataKey.generate(), parts(PARTIES), store=STORE, ledger="ledger")
    text = dealt.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from('0f1az:,{}"é')) + text[at + 1 :]
    try:
        found = parse_seal(changed)
        assert isinstance(found, CustodianSeal)
        opened = found.open(parts(PARTIES))
    except StrongroomError:
        return
    assert found == dealt  # a name is for people, and no byte of a fingerprint
    assert opened == dealt.open(parts(PARTIES))


def test_an_older_seal_beside_newer_records_opens_nothing_of_them(tmp_path):
    """Attack: the first custodian helps, with the seal from before another one joined it."""
    first, both = parts(PARTIES[:1]), parts(PARTIES[:2])
    key, newer = DataKey.generate(), DataKey.generate()
    alone = deal(key, first, store=STORE, ledger="ledger").encode()
    store = ClosedStore.hold(tmp_path, tables=[]).open(reveal(key))
    list(store.load())
    store.reseal(reveal(key), seal=alone)
    store.commit([Change(kind="dataset", key="flights@1", value=b"the first's")], epoch=1, ledger=END)
    store.reseal(reveal(newer), seal=deal(newer, both, store=STORE, ledger="ledger").encode())
    store.commit([Change(kind="dataset", key="weather@1", value=b"the second's")], epoch=2, ledger=END)
    store.close()
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as connection, connection:
        connection.execute("update seal set text = ?", (alone,))
    closed = ClosedStore.hold(tmp_path, tables=[])
    opened = parse_seal(closed.seal).open(first)
    with pytest.raises(SealError):
        list(closed.open(reveal(opened)).load())
    closed.close()


# Contributions on the way.


class Sealed:
    """A sealed broker in this very process, and what its custodians send it."""

    def __init__(self, platform, custodians, dealt=None):
        self.now = 0.0
        plan = OpenByCustodians(dealt=dealt, custodians=tuple(sorted((p.id for p in custodians), key=fingerprint)))
        self.vigil = Vigil(plan, store=STORE, seal=dealt.seal if dealt else b"i" * 32, clock=lambda: self.now)
        keys = BrokerKeys.generate(now=platform.born)
        tee = SimulatedTee.of(platform.enclave("broker"))
        self.service = SealedService(self.vigil, keys=keys, tee=tee, nonces=Nonces())

    def ask(self):
        return self.service._show(json.dumps({"nonce": encode64(b"n" * 32)}).encode())

    def seal(self, party, *, part=None):
        info = unseal_info(instance=self.service._instance, store=STORE, seal=self.vigil.seal, party=party.id)
        part = part or contribute(party.key, store=STORE)
        return seal(decode64(self.ask()["kem"], name="kem"), reveal(part), info=info)

    def sign(self, sealed, key):
        fields = {"seal": self.vigil.seal.hex(), "contribution": bytes_digest(sealed), "checkpoint": ""}
        nonce = decode64(self.ask()["nonce"], name="nonce")
        order = sign_order(Order.UNSEAL, fields, ledger=sealed_ledger(STORE), nonce=nonce, key=key)
        return json.dumps({"order": order.encode(), "sealed": encode64(sealed)}).encode()

    def send(self, party, **more):
        return self.service._take(self.sign(self.seal(party, **more), party.key))


def fingerprint(party: PartyId) -> str:
    return party.fingerprint


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    from datetime import UTC, datetime

    platform = SimulatedPlatform(tmp_path_factory.mktemp("machine"), tee="tdx")
    platform.born = datetime.now(UTC)
    return platform


@pytest.fixture
def dealt():
    return deal(DataKey.generate(), parts(PARTIES[:2]), store=STORE, ledger="ledger")


def test_a_contribution_counts_once_at_one_start(platform, dealt):
    sealed = Sealed(platform, PARTIES[:2], dealt)
    body = sealed.sign(sealed.seal(PARTIES[0]), PARTIES[0].key)
    assert sealed.service._take(body)["given"] == [str(PARTIES[0].id)]
    with pytest.raises(StaleNonceError):
        sealed.service._take(body)
    with pytest.raises(StaleNonceError):
        Sealed(platform, PARTIES[:2], dealt).service._take(body)


def test_what_was_sealed_for_one_start_party_or_store_opens_for_no_other(platform, dealt):
    first, second = PARTIES[:2]
    one, other = Sealed(platform, [first, second], dealt), Sealed(platform, [first, second], dealt)
    with pytest.raises(SealedMessageError):  # even if the custodian signed for it
        other.service._take(other.sign(one.seal(first), first.key))
    with pytest.raises(SealedMessageError):  # another custodian's, as its own
        one.service._take(one.sign(one.seal(first), second.key))
    assert reveal(contribute(first.key, store=STORE)) != reveal(contribute(first.key, store=b"t" * 32))


def test_strangers_and_wrong_contributions_change_nothing(platform, dealt):
    sealed = Sealed(platform, PARTIES[:2], dealt)
    sealed.send(PARTIES[0])
    with pytest.raises(WrongContributionError, match="is not a custodian"):
        sealed.send(PARTIES[2])
    namesake = Party(PARTIES[1].name)
    with pytest.raises(WrongContributionError, match="is not a custodian"):
        sealed.send(namesake)
    with pytest.raises(WrongContributionError, match="not what this store was sealed with"):
        sealed.send(PARTIES[1], part=DataKey.generate())
    assert sealed.vigil.given == (PARTIES[0].id,)
    with pytest.raises(SealedBrokerError):
        sealed.vigil.release()
    assert sealed.send(PARTIES[1])["complete"]


def test_a_contribution_is_forgotten_after_an_hour(platform, dealt):
    sealed = Sealed(platform, PARTIES[:2], dealt)
    sealed.send(PARTIES[0])
    (kept,) = (one.part for one in sealed.vigil._given.values())
    sealed.now += CONTRIBUTION_SECONDS + 1
    assert sealed.send(PARTIES[1])["complete"] is False
    with pytest.raises(InvalidKeyError, match="wiped"):
        reveal(kept)


def test_evidence_of_a_sealed_broker_is_not_that_of_a_serving_one(platform, dealt):
    sealed = Sealed(platform, PARTIES[:2], dealt)
    keys = sealed.service._keys
    assert sealed.service._instance != keys.public.digest

    class Protocol:
        def response_bytes(self, status, headers, body):
            self.told = status, json.loads(body)

    class Scope:
        proto, method, path, headers = "http", "POST", "/v1/evidence", {}

    protocol = Protocol()
    asyncio.run(sealed.service.__rsgi__(Scope(), protocol))
    assert protocol.told[0] == 503
    assert protocol.told[1]["kind"] == "SealedBrokerError"


def test_nothing_of_a_contribution_is_in_what_a_sealed_broker_shows(platform, dealt):
    sealed = Sealed(platform, PARTIES[:2], dealt)
    for party in PARTIES[:2]:
        sealed.send(party)
    said = json.dumps(sealed.ask()) + repr(sealed.vigil.release()) + dealt.encode()
    for secret in parts(PARTIES[:2]).values():
        assert reveal(secret).hex() not in said
        assert encode64(reveal(secret)) not in said


# Brokers that ask for contributions.


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path, kind="tdx")
    scene.custodians = [scene.airline, scene.weather]
    yield scene
    scene.close()


def test_custodians_give_a_stale_or_evil_measurement_nothing(scene, tmp_path):
    honest = scene.measure("broker")
    evil = shutil.copytree(scene.package, tmp_path / "evil" / "strongroom")
    with (evil / "broker" / "custodians.py").open("a") as stream:
        stream.write("\n# and send what was contributed elsewhere\n")
    scene.package = evil
    assert scene.start()["event"] == "sealed"
    with pytest.raises(MeasurementError, match="the broker measures as"):
        scene.unseal(scene.airline, expect=honest)
    impostor = Scene(tmp_path / "elsewhere", kind="tdx")
    impostor.port = scene.port
    with pytest.raises(StrongroomError):  # another machine's root
        impostor.unseal(scene.airline)
    assert len(scene.look().missing) == 2


def restore(scene, saved):
    shutil.rmtree(scene.store)
    shutil.copytree(saved, scene.store)


def test_a_rolled_back_or_emptied_store_is_not_served(scene):
    scene.ready()
    scene.stop()
    before = shutil.copytree(scene.store, scene.directory / "before")
    scene.start()
    scene.unseal(scene.airline, scene.weather)
    assert scene.hear()["event"] == "ready"
    owner = scene.owner(scene.airline)
    with closing(owner.attest_broker(scene.url)) as client:
        owner.revoke("flights", reason="withdrawn", broker=client)
    scene.stop()
    restore(scene, before)
    assert scene.start()["event"] == "sealed"
    with pytest.raises(TransportError, match="does not come to serve"):
        scene.unseal(scene.weather, scene.airline, patience=0)
    said = scene.hear()
    assert said["kind"] == "RolledBackStoreError"
    assert "remembers" in said["message"]
    assert scene.process.wait(timeout=20) == 4
    shutil.rmtree(scene.store)
    assert scene.start()["event"] == "sealed"
    with pytest.raises(RolledBackError, match="is to found a new store"):
        scene.unseal(scene.airline)


@pytest.mark.slow
def test_a_copy_of_the_store_is_not_unsealed_beside_the_original(scene):
    scene.ready()
    scene.stop()
    shutil.copytree(scene.store, scene.directory / "copy", ignore=shutil.ignore_patterns("lock"))
    scene.start()
    scene.unseal(scene.airline, scene.weather)
    assert scene.hear()["event"] == "ready"
    original, scene.process, scene.port, scene.place = scene.process, None, 0, str(scene.directory / "copy")
    try:
        assert scene.start()["event"] == "sealed"
        with pytest.raises(TransportError):  # The custodians are told that the broker has to be unsealed once more.
            scene.unseal(scene.airline, scene.weather, patience=0)
        said = scene.hear()
        assert said["kind"] == "RolledBackStoreError"
        assert str(scene.weather.id) in said["message"]  # who contributed last, and saw the original start
    finally:
        original.kill()


def test_contributions_differ_by_party_and_store():
    keys = [SigningKey.generate(name="a") for _ in range(2)]
    found = [reveal(contribute(key, store=store)) for key, store in itertools.product(keys, (STORE, b"t" * 32))]
    assert len({*found}) == 4
    assert not any(seed in one for one in found for seed in (key.reveal_seed() for key in keys))
