"""Two owners, one result; one of them keeps the master key in an HSM, and later leaves that key for another."""

from __future__ import annotations

from pathlib import Path

import pytest
from pkcs11 import Attribute
from small_world import SmallWorld, _source, expected_answer, plaintext_in

from strongroom.envelope.custody import CustodyError, create_custody
from strongroom.envelope.manifest import read_manifest, unwrap_data_key, verify_manifest
from strongroom.errors import RefusedError

pytestmark = pytest.mark.softhsm


def pin():
    return b"vault-4711"


def no_pin():
    raise AssertionError("this process is logged in to the token already")


@pytest.fixture
def world(tmp_path: Path):
    made = SmallWorld.make(tmp_path / "world")
    try:
        made.start_broker()
        made.enrol_everyone()
        made.analyst_door().enrol_member(made.identity(made.partner))
        made.register(made.owners["bank"])
        yield made
    finally:
        made.close()


def test_dataset_whose_master_key_is_in_a_token_is_joined_with_another(world, softhsm):
    shop = world.owners["shop"]
    first = create_custody(softhsm.uri("sales", token="shops"), password=pin)
    shop.owner.encrypt([_source("sales")], shop.encrypted, dataset="sales", version=1, custody=first)
    policy = shop.owner.permit(world.policy(shop))
    shop.owner.register(shop.encrypted, broker=shop.broker, policy=policy, password=no_pin)
    assert world.fetch(world.run()) == expected_answer()

    second = create_custody(softhsm.uri("sales-2", token="shops"), password=no_pin)
    older = verify_manifest(read_manifest(shop.encrypted), owner=shop.owner.key.party)
    shop.owner.move(shop.encrypted, old=first, new=second)
    _destroy(first)
    with pytest.raises(CustodyError, match="no secret key sales"):
        unwrap_data_key(older, custody=first)
    shop.owner.register(shop.encrypted, broker=shop.broker, policy=policy, password=no_pin)
    assert world.fetch(world.run()) == expected_answer()
    assert plaintext_in(world.directory) == []

    shop.owner.revoke("sales", broker=shop.broker, reason="changed our mind")
    with pytest.raises(RefusedError) as refused:
        world.run()
    assert any("revoked" in reason for reason in refused.value.reasons)


def _destroy(custody) -> None:
    """Destroy the key as the token's administrator does."""
    session = custody._token.open(rw=True)
    [key] = session.get_objects({Attribute.LABEL: custody._key.object})
    key.destroy()
    session.close()
