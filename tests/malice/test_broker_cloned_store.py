"""The host starts a second broker over a copy of the store, so that one of them never hears of a revocation."""

import json
import shutil
import subprocess
import time

import pytest
from scene import START_SECONDS, Scene

from strongroom.errors import StrongroomError


def test_broker_over_the_original_stops_once_a_clone_was_started(tmp_path):
    scene = Scene(tmp_path)
    clone = None
    try:
        client = scene.ready()
        shutil.copytree(scene.store, tmp_path / "clone", ignore=shutil.ignore_patterns("lock"))
        clone = scene.platform.start(
            "broker",
            ["--store", str(tmp_path / "clone"), "--listen", "127.0.0.1:0"],
            package_root=scene.package,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert json.loads(clone.stdout.readline())["event"] == "ready"
        time.sleep(2.1)  # The original looks at the counter at least every two seconds of work.
        try:
            client.submit_job(scene.job().statement)
            answered = True
        except StrongroomError:
            answered = False
        assert not answered
        assert scene.process.wait(timeout=START_SECONDS) == 4
        assert b"another broker was started over a copy" in (tmp_path / "broker.log").read_bytes()
    finally:
        if clone is not None:
            clone.kill()
        scene.close()


def test_original_makes_no_administrative_change_after_a_clone_was_started(tmp_path):
    scene = Scene(tmp_path)
    clone = None
    try:
        client = scene.ready()
        shutil.copytree(scene.store, tmp_path / "clone", ignore=shutil.ignore_patterns("lock"))
        clone = scene.platform.start(
            "broker",
            ["--store", str(tmp_path / "clone"), "--listen", "127.0.0.1:0"],
            package_root=scene.package,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert json.loads(clone.stdout.readline())["event"] == "ready"
        try:
            client.revoke("flights", "withdrawn", scene.airline.key)
            answered = True
        except StrongroomError:
            answered = False
        assert not answered
    finally:
        if clone is not None:
            clone.kill()
        scene.close()


def test_original_renews_no_lease_after_a_clone_was_started(tmp_path):
    scene = Scene(tmp_path)
    clone = None
    try:
        client = scene.ready()
        job = scene.job()
        driver = scene.driver(client, job, client.submit_job(job.statement))
        driver.release(["flights"])
        assert driver.renew() > 0
        shutil.copytree(scene.store, tmp_path / "clone", ignore=shutil.ignore_patterns("lock"))
        clone = scene.platform.start(
            "broker",
            ["--store", str(tmp_path / "clone"), "--listen", "127.0.0.1:0"],
            package_root=scene.package,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert json.loads(clone.stdout.readline())["event"] == "ready"
        time.sleep(2.1)  # Revocations now go to the clone; a renewal writes nothing down, and must notice all the same.
        with pytest.raises(StrongroomError):
            driver.renew()
        assert scene.process.wait(timeout=START_SECONDS) == 4
    finally:
        if clone is not None:
            clone.kill()
        scene.close()
