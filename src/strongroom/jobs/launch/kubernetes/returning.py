"""Come back to a job that was left to the cluster: to its driver while it runs, to its report afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TypeVar

from strongroom.errors import StrongroomError, TransportError
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.board import Board
from strongroom.jobs.launch.kubernetes.host import KubernetesHost
from strongroom.jobs.launch.kubernetes.manifests import CONTAINER
from strongroom.jobs.launch.placement import PlacementError, parse_port

_Report = TypeVar("_Report")
_SETTLE_SECONDS = 20.0  # a keeper writes the report down within moments of the driver's end
_LOOK_SECONDS = 0.5


def follow_left(
    host: KubernetesHost,
    name: str,
    *,
    attach: Callable[[tuple[str, int]], _Report],
    read: Callable[[str], _Report],
) -> _Report:
    """Return what ``attach`` makes of the driver at its address, or ``read`` of its sealed report if it has ended.

    Raise PlacementError with the host's word if the driver ended without a report.
    """
    board = Board(host.cluster)
    if _driver_runs(board, name):
        try:
            return _attach(host, name, attach)
        except TransportError:
            if _driver_runs(board, name):
                raise
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        history = board.history(name)
        if history.report:
            return read(history.report)
        if history.ended or time.monotonic() > until:
            break
        time.sleep(_LOOK_SECONDS)
    raise PlacementError(
        f"job {name} is {history.state}{f': {history.why}' if history.why else ''}, and its driver left no report",
        hint="what was released stands in the ledger: strongroom audit; submit the job again",
    )


def _attach(host: KubernetesHost, name: str, attach: Callable[[tuple[str, int]], _Report]) -> _Report:
    head = Board(host.cluster).job(name).head
    if head is None:
        raise TransportError(f"job {name} has no driver any more", hint="see `strongroom job show`")
    pod = head.name
    port = _listening_port(host.cluster, pod)
    if host.settings.reach == "pod-ip":
        return attach((str(host.cluster.get("pods", pod).get("status", {}).get("podIP") or ""), port))
    with host.cluster.open_tunnel(pod, port) as tunnel:
        return attach(tunnel.address)


def _driver_runs(board: Board, name: str) -> bool:
    return any(job.name == name and job.phase == "Running" for job in board.jobs())


def _listening_port(cluster: Cluster, pod: str) -> int:
    with cluster.follow_log(pod, container=CONTAINER, follow=False) as lines:
        for line in lines:
            try:
                said = json.loads(line)
                if said["event"] == "listening":
                    return parse_port(said["port"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    raise StrongroomError(f"the driver in pod {pod} does not listen yet", hint="try again in a moment")
