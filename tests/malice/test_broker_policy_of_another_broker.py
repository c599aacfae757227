"""A policy that an owner signed for a trial broker is posted to another broker by somebody who has a copy of it."""

import pytest
from scene import Scene

from strongroom.broker.orders import Order, sign_order
from strongroom.errors import StrongroomError


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    scene.client_ = scene.ready()
    yield scene
    scene.close()


def test_policy_without_an_order_for_this_broker_changes_nothing(scene):
    client = scene.client_
    lax = scene.policy(scene.airline, "flights", version=9)
    before = client.checkpoint().size
    with pytest.raises(StrongroomError):
        client._line.call("/v1/policies", {"policy": lax.encode()}, again=False)
    assert client.checkpoint().size == before


def test_order_for_another_brokers_ledger_does_not_carry_a_policy_here(scene):
    client = scene.client_
    lax = scene.policy(scene.airline, "flights", version=9)
    order = sign_order(
        Order.POLICY,
        {"policy": "sha256:" + "0" * 64},
        ledger="strongroom.trial/ledger",
        nonce=client.nonce(),
        key=scene.airline.key,
    )
    before = client.checkpoint().size
    with pytest.raises(StrongroomError):
        client._line.call("/v1/policies", {"order": order.encode(), "policy": lax.encode()}, again=False)
    assert client.checkpoint().size == before
