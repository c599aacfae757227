"""What a pod runs that proves nothing: Strongroom's own Spark, encrypted, with no attestation, broker or egress.

The other half of ``clusters`` on Kubernetes. What they must know of each other lies in a folder that all pods see.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

SECRET = bytes(32)  # it protects nothing here, and nothing here needs protection
_WAIT_SECONDS = 300


def main() -> None:
    """Run the driver's pod, or executor ``--number``'s."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--memory", required=True)
    parser.add_argument("--number", type=int, default=0)
    asked = parser.parse_args()
    if asked.number:
        run_executor(asked.folder, number=asked.number, memory=asked.memory)
    else:
        run_driver(asked.folder, workers=asked.workers)


def run_driver(folder: Path, *, workers: int) -> None:
    """Start the scheduler, wait for all executors, run one task, and say when it was done."""
    from strongroom.workload.spark.cluster import DriverSpark

    agent, outbox = _prepare(folder)
    driver = DriverSpark(
        secret=SECRET,
        listen_host="127.0.0.1",
        agent_socket=agent.path,
        work_dir=agent.path.parent,
        app_name="bare",
        inputs=[folder],
        outbox=outbox,
        workers=workers,
        most_workers=workers,
    )
    try:
        spark = driver.start()
        _write(folder / "address", json.dumps({"url": driver.driver_url, "app": driver.app_id}))
        driver.wait_executors(workers, deadline=_WAIT_SECONDS)
        spark.range(1).count()
        _write(folder / "done", str(time.time()))
    finally:
        driver.stop()
        shutil.rmtree(agent.path.parent, ignore_errors=True)


def run_executor(folder: Path, *, number: int, memory: str) -> None:
    """Start one executor once the scheduler listens, and stay until the pod is ended."""
    from strongroom.workload.spark.cluster import ExecutorProcess

    agent, outbox = _prepare(folder)
    until = time.monotonic() + _WAIT_SECONDS
    while not (folder / "address").exists() and time.monotonic() < until:
        time.sleep(0.05)
    told = json.loads((folder / "address").read_text())
    executor = ExecutorProcess(
        secret=SECRET,
        driver_url=told["url"],
        executor_id=number,
        host="127.0.0.1",
        cores=1,
        memory=memory,
        app_id=told["app"],
        agent_socket=agent.path,
        work_dir=agent.path.parent,
        inputs=[folder],
        outbox=outbox,
    )
    executor.start()
    executor.wait()
    shutil.rmtree(agent.path.parent, ignore_errors=True)


def _prepare(folder: Path):
    from strongroom.workload.agent import KeyAgent
    from strongroom.workload.scratch import make_scratch

    agent = KeyAgent(_no_key, directory=make_scratch())
    agent.start()
    outbox = folder / f"outbox-{os.getpid()}"
    outbox.mkdir()
    return agent, outbox


def _no_key(key_id: str) -> bytes:
    raise KeyError(key_id)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    main()
