"""Spark's settings: protections are always on, an analyst tunes what is listed, and the last check misses nothing."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.workload.spark.settings import PROTECTIONS, SparkSettingsError, compose_settings, verify_spark_conf

SECRET = bytes(range(32))


def settings(**tuning: str) -> dict[str, str]:
    named = {name.replace("__", "."): value for name, value in tuning.items()}
    return compose_settings(app_name="job", host="127.0.0.1", scratch=Path("/dev/shm/x"), tuning=named)


def test_composed_settings_pass_the_check():
    verify_spark_conf(settings(), secret=SECRET)


def test_analyst_may_tune_shuffle_partitions():
    assert settings(spark__sql__shuffle__partitions="3")["spark.sql.shuffle.partitions"] == "3"


@pytest.mark.parametrize(
    "name",
    [
        *PROTECTIONS,
        "spark.authenticate.secret",
        "spark.driver.extraJavaOptions",
        "spark.jars",
        "spark.jars.packages",
        "spark.local.dir",
        "spark.plugins",
        "spark.metrics.conf.*.sink.csv.class",
        "spark.extraListeners",
        "spark.hadoop.fs.file.impl.disable.cache",
        "spark.executorEnv.LD_PRELOAD",
        "spark.python.worker.module",
        "spark.eventLog.dir",
    ],
)
def test_analyst_may_not_set(name):
    with pytest.raises(SparkSettingsError) as caught:
        compose_settings(app_name="job", host="h", scratch=Path("/x"), tuning={name: "1"})
    assert name in caught.value.message
    assert "spark.sql.shuffle.partitions" in caught.value.hint


def test_refusal_names_every_setting():
    with pytest.raises(SparkSettingsError, match=r"spark\.jars, spark\.ui\.enabled"):
        compose_settings(
            app_name="j", host="h", scratch=Path("/x"), tuning={"spark.ui.enabled": "true", "spark.jars": "a"}
        )


@pytest.mark.parametrize("value", ["1\nspark.ui.enabled true", "x" * 201])
def test_value_that_is_not_one_short_line_is_refused(value):
    with pytest.raises(SparkSettingsError):
        settings(spark__sql__session__timeZone=value)


@pytest.mark.parametrize("name", sorted(PROTECTIONS))
def test_check_fails_when_one_protection_is_missing_or_weakened(name):
    for damaged in ({}, {name: "other"}):
        conf = {key: value for key, value in settings().items() if key != name} | damaged
        with pytest.raises(SparkSettingsError, match=name.replace(".", r"\.")):
            verify_spark_conf(conf, secret=SECRET)


@pytest.mark.parametrize("spelling", [SECRET.hex(), SECRET.hex().upper(), base64.b64encode(SECRET).decode()])
def test_check_fails_when_a_setting_holds_the_secret(spelling):
    with pytest.raises(SparkSettingsError, match=r"spark\.app\.name holds the cluster secret"):
        verify_spark_conf(settings() | {"spark.app.name": f"job {spelling}"}, secret=SECRET)


def test_check_fails_when_the_secret_setting_is_not_a_decoy():
    for damaged in ("", "password", SECRET.hex()):
        with pytest.raises(SparkSettingsError, match="must be a decoy"):
            verify_spark_conf(settings() | {"spark.authenticate.secret": damaged}, secret=SECRET)


def test_two_drivers_have_different_decoys():
    assert settings()["spark.authenticate.secret"] != settings()["spark.authenticate.secret"]


@pytest.mark.parametrize(
    "name", ["spark.jars", "spark.plugins", "spark.executor.extraClassPath", "spark.ssl.rpc.enabled"]
)
def test_check_fails_when_a_forbidden_setting_appears(name):
    with pytest.raises(SparkSettingsError, match="must not be set"):
        verify_spark_conf(settings() | {name: "x"}, secret=SECRET)


@given(st.text(min_size=1, max_size=60), st.text(max_size=20))
def test_no_name_of_any_spelling_weakens_a_protection(name, value):
    try:
        conf = compose_settings(app_name="j", host="h", scratch=Path("/x"), tuning={f"spark.{name}": value})
    except SparkSettingsError:
        return
    verify_spark_conf(conf, secret=SECRET)
