"""``strongroom job``: the jobs on a Kubernetes cluster, as its host tells of them: list, status, logs, cancel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import VerbGroup, verb

if TYPE_CHECKING:
    from strongroom.jobs.launch.kubernetes.board import Board, JobState

_Function = TypeVar("_Function", bound=Callable[..., Any])


def settings_option(function: _Function) -> _Function:
    """Add ``--settings``: the file that says where and how jobs are placed on a cluster."""
    return click.option(
        "--settings",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="CLUSTER.toml",
        required=True,
        help="The cluster's settings: namespace, image, TEE flavour, volumes.",
    )(function)


@click.group(cls=VerbGroup)
def job() -> None:
    """List, watch and cancel the jobs on a cluster.

    What it says is the cluster's word about pods. What a job did with data stands in the broker's ledger:
    `strongroom audit`.
    """


@verb(examples=("strongroom job list --settings cluster.toml",), name="list", group=job)
@settings_option
def _list(screen: Screen, *, settings: Path) -> None:
    """List the jobs of the settings' namespace, the newest first."""
    found = _board(settings).jobs()
    rows = [(one.name, one.title, one.phase, len(one.pods), one.created) for one in found]
    screen.result(
        {"jobs": [_described(one) for one in found]},
        text=(screen.table("jobs", ("job", "name", "state", "pods", "since"), rows),) if rows else ("no jobs",),
    )


@verb(examples=("strongroom job status delays-0123456789 --settings cluster.toml",), group=job)
@click.argument("name", metavar="JOB")
@settings_option
def _status(screen: Screen, *, name: str, settings: Path) -> None:
    """Show a job's pods and what is wrong with them, if anything."""
    found = _board(settings).job(name)
    rows = [(pod.name, pod.role, pod.phase, pod.node, pod.why) for pod in found.pods]
    screen.result(
        _described(found),
        text=(
            f"job {found.name} ({found.title}): {found.phase}",
            f"digest {found.digest}",
            screen.table("pods", ("pod", "role", "state", "node", "why"), rows),
        ),
    )


@verb(examples=("strongroom job logs delays-0123456789 --settings cluster.toml --follow",), group=job)
@click.argument("name", metavar="JOB")
@click.option("--role", type=click.Choice(("driver", "worker", "egress")), default="driver", show_default=True)
@click.option("--follow", is_flag=True, help="Go on until the driver ends.")
@settings_option
def _logs(screen: Screen, *, name: str, role: str, follow: bool, settings: Path) -> None:
    """Print what a job's pods said to their host; it is little, and never data."""
    lines = _board(settings).log(name, role=role, follow=follow)
    if screen.as_json:
        screen.result({"job": name, "role": role, "lines": list(lines)})
        return
    for line in lines:
        screen.result({}, text=(line,))


@verb(examples=("strongroom job cancel delays-0123456789 --settings cluster.toml",), group=job)
@click.argument("name", metavar="JOB")
@settings_option
def _cancel(screen: Screen, *, name: str, settings: Path) -> None:
    """End a job and delete what it made on the cluster; one that ended is cleared away."""
    found = _board(settings).cancel(name)
    screen.result(
        {"job": found.name, "was": found.phase}, text=(f"job {found.name} is cancelled, it was {found.phase}",)
    )


def _board(settings: Path) -> Board:
    from strongroom.jobs.launch.kubernetes import KubernetesHost, load_settings
    from strongroom.jobs.launch.kubernetes.board import Board

    return Board(KubernetesHost.open(load_settings(settings)).cluster)


def _described(found: JobState) -> dict[str, Any]:
    pods = [{"name": p.name, "role": p.role, "state": p.phase, "node": p.node, "why": p.why} for p in found.pods]
    return {
        "job": found.name,
        "name": found.title,
        "digest": found.digest,
        "state": found.phase,
        "since": found.created,
        "pods": pods,
    }
