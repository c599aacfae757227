"""A confined process writes below its directories and nowhere else, and so do its children; nothing undoes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from strongroom.errors import UsageError
from strongroom.workload.confinement import Confinement, confined_command, landlock_abi, main

needs_landlock = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")


def confined(script: str, *writable: Path) -> subprocess.CompletedProcess[str]:
    command = confined_command([sys.executable, "-c", script], writable=writable)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_landlock
def test_writing_inside_works_and_outside_does_not(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "old").write_text("old")
    script = f"""
import os
open({str(inside / "a")!r}, "w").write("x"); os.rename({str(inside / "a")!r}, {str(inside / "b")!r})
acts = [
    lambda: open({str(outside / "new")!r}, "w"),
    lambda: open({str(outside / "old")!r}, "r+"),
    lambda: os.truncate({str(outside / "old")!r}, 0),
    lambda: os.unlink({str(outside / "old")!r}),
    lambda: os.rename({str(inside / "b")!r}, {str(outside / "b")!r}),
    lambda: os.mkdir({str(outside / "d")!r}),
    lambda: os.symlink("x", {str(outside / "s")!r}),
    lambda: os.link({str(outside / "old")!r}, {str(outside / "l")!r}),
]
for act in acts:
    try: act()
    except OSError: print("refused")
    else: print("done")
"""
    result = confined(script, inside)
    assert result.stdout.split() == ["refused"] * 8, result.stderr
    assert (outside / "old").read_text() == "old"


@needs_landlock
def test_children_are_confined_too(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    script = f"import subprocess; subprocess.run(['/bin/sh', '-c', 'echo x > {outside}/x; echo y > {inside}/y'])"
    confined(script, inside)
    assert not (outside / "x").exists()
    assert (inside / "y").exists()


@needs_landlock
def test_a_second_confinement_cannot_widen_the_first(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    script = f"""
from pathlib import Path
from strongroom.workload.confinement import confine
confine([Path({str(tmp_path)!r})])
Path({str(outside / "x")!r}).write_text("x")
"""
    assert "PermissionError" in confined(script, inside).stderr
    assert not (outside / "x").exists()


def test_core_dumps_and_new_privileges_are_given_up(tmp_path):
    script = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)); print(open('/proc/self/status').read())"
    said = confined(script, tmp_path).stdout
    assert said.startswith("(0, 0)")
    assert "NoNewPrivs:\t1" in said


def test_kernel_without_landlock_is_reported_and_not_hidden(tmp_path):
    assert not Confinement(abi=0, writable=(tmp_path,)).enforced
    assert Confinement(abi=1, writable=(tmp_path,)).enforced


def test_command_line_without_a_command_is_refused():
    for argv in ([], ["/tmp"], ["/tmp", "--"]):
        with pytest.raises(UsageError):
            main(argv)


def test_missing_directory_is_an_error_and_not_a_wider_wall(tmp_path):
    result = confined("print('ran')", tmp_path / "absent")
    assert "ran" not in result.stdout
    assert result.returncode != 0


def test_descriptors_do_not_pile_up(tmp_path):
    script = f"""
import os
from pathlib import Path
from strongroom.workload.confinement import confine
before = len(os.listdir("/proc/self/fd"))
confine([Path({str(tmp_path)!r})])
print(len(os.listdir("/proc/self/fd")) - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == "0"
