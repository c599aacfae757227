"""Libraries are held to what is protected as soon as they are loaded, whichever thread loads them."""

import os
import subprocess
import sys
from textwrap import dedent

TRACKER = dedent("""
    from concurrent.futures import ThreadPoolExecutor
    from strongroom.workload.collectives import guard_collectives

    with ThreadPoolExecutor(1) as other:  # while this thread has the module half loaded
        other.submit(guard_collectives).result()

    class RabitTracker:
        def __init__(self, n_workers):
            raise AssertionError("it was started")
""")

PROGRAM = dedent("""
    from strongroom.workload.collectives import ClearTrafficError, guard_collectives

    guard_collectives()
    from xgboost.tracker import RabitTracker

    try:
        RabitTracker(2)
    except ClearTrafficError as error:
        print(error.hint)
""")


def test_a_module_that_another_thread_is_loading_is_held_when_it_is_there(tmp_path):
    (tmp_path / "xgboost").mkdir()
    (tmp_path / "xgboost" / "__init__.py").write_text("")
    (tmp_path / "xgboost" / "tracker.py").write_text(TRACKER)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "room.xgboost" in done.stdout
