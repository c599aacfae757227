"""A stranger who reached the driver's port, but was not attested, tries to become an executor."""

from __future__ import annotations

import os
import socket

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def test_executor_with_a_wrong_secret_cannot_join(spark_room):
    stranger = spark_room.add_executor(90, secret=os.urandom(32))
    try:
        assert stranger.wait(60) != 0
        assert "90" not in spark_room.driver.executors()
        assert spark_room.session.range(100).count() == 100
    finally:
        spark_room.executors.pop(90).kill()


def test_executor_that_knows_only_the_setting_cannot_join(spark_room):
    decoy = spark_room.session.sparkContext.getConf().get("spark.authenticate.secret")
    stranger = spark_room.add_executor(91, secret=bytes.fromhex(decoy.removeprefix("decoy-")))
    try:
        assert stranger.wait(60) != 0
        assert "91" not in spark_room.driver.executors()
    finally:
        spark_room.executors.pop(91).kill()


def test_peer_that_does_not_authenticate_gets_no_answer(spark_room):
    conf = spark_room.session.sparkContext.getConf()
    address = conf.get("spark.driver.host"), int(conf.get("spark.driver.port"))
    with socket.create_connection(address, timeout=10) as stranger:
        stranger.sendall(
            (21 + 4).to_bytes(8, "big") + b"\x03" + (1).to_bytes(8, "big") + (4).to_bytes(4, "big") + b"ping"
        )
        stranger.settimeout(10)
        said = b""
        try:
            while part := stranger.recv(4096):
                said += part
        except (ConnectionResetError, TimeoutError):
            pass
    assert b"RegisteredExecutor" not in said
    assert spark_room.session.range(100).count() == 100
