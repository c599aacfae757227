"""The jar in the package is what its source builds, byte for byte, and knows nothing but its own classes."""

from __future__ import annotations

import importlib.resources
import runpy
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
JAR = Path(str(importlib.resources.files("strongroom.workload.spark"))) / "strongroom-spark.jar"


def javac_release() -> str:
    found = shutil.which("javac")
    if not found:
        return ""
    said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=30, check=False)
    return (said.stdout + said.stderr).split()[-1].split(".")[0]


@pytest.mark.skipif(
    javac_release() != "17", reason="the jar was built by javac 17; another release may emit other bytes"
)
@pytest.mark.slow
def test_source_builds_the_same_bytes(tmp_path):
    runpy.run_path(str(ROOT / "scripts/jar"))["build"](tmp_path / "again.jar")
    assert (tmp_path / "again.jar").read_bytes() == JAR.read_bytes()


def test_jar_holds_our_classes_and_one_service_only():
    with zipfile.ZipFile(JAR) as jar:
        names = jar.namelist()
        assert jar.read("META-INF/services/org.apache.spark.scheduler.ExternalClusterManager").decode().split() == [
            "strongroom.spark.AttestedClusterManager"
        ]
    others = [name for name in names if not name.startswith("strongroom/spark/")]
    assert others == ["META-INF/services/org.apache.spark.scheduler.ExternalClusterManager"]
    assert names == sorted(names)
