"""``strongroom job``: the jobs on a Kubernetes cluster, by its host's word, and back to one that was left there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from strongroom.cli.placing import open_board
from strongroom.cli.screen import Screen
from strongroom.cli.verb import VerbGroup, home_option, password_option, verb

if TYPE_CHECKING:
    from strongroom.jobs.launch.kubernetes.board import JobState
    from strongroom.jobs.launch.kubernetes.history import JobHistory

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
    """List, watch, rejoin and cancel the jobs on a cluster.

    What it says is the cluster's word about pods. What a job did with data stands in the broker's ledger:
    `strongroom audit`.
    """


@verb(
    examples=("strongroom job list --settings cluster.toml", "strongroom job list --settings cluster.toml --all"),
    name="list",
    group=job,
)
@click.option("--all", "remembered", is_flag=True, help="Also jobs whose pods are gone, from the cluster's history.")
@settings_option
def _list(screen: Screen, *, remembered: bool, settings: Path) -> None:
    """List the jobs of the settings' namespace, the newest first."""
    if remembered:
        histories = open_board(settings).histories()
        told = [(one.name, one.title, one.state, one.created, one.ended, one.why) for one in histories]
        columns = ("job", "name", "state", "since", "ended", "why")
        screen.result(
            {"jobs": [_told(one) for one in histories]},
            text=(screen.table("jobs", columns, told),) if told else ("no jobs",),
        )
        return
    found = open_board(settings).jobs()
    rows = [(one.name, one.title, one.phase, len(one.pods), one.created) for one in found]
    screen.result(
        {"jobs": [_described(one) for one in found]},
        text=(screen.table("jobs", ("job", "name", "state", "pods", "since"), rows),) if rows else ("no jobs",),
    )


@verb(examples=("strongroom job show delays-0123456789 --settings cluster.toml --json",), group=job)
@click.argument("name", metavar="JOB")
@settings_option
def _show(screen: Screen, *, name: str, settings: Path) -> None:
    """Show what happened to a job: its states with their times, its pods, and why it ended.

    It is the cluster's word, kept after the job's pods are gone. What the driver itself says is for its analyst alone:
    `strongroom job attach`.
    """
    found = open_board(settings).history(name)
    rows = [(one.get("at", ""), one.get("what", ""), _facts(one)) for one in found.events]
    screen.result(
        {**_told(found), **found.about, "events": [dict(one) for one in found.events]},
        text=(
            f"job {found.name} ({found.title}): {found.state}{f' ({found.why})' if found.why else ''}",
            f"digest {found.digest}",
            screen.table("course", ("time", "what", "facts"), rows),
        ),
    )


@verb(
    examples=(
        "strongroom job wait delays-0123456789 --settings cluster.toml",
        "strongroom job wait delays-0123456789 --settings cluster.toml --timeout 3600 --json",
    ),
    group=job,
)
@click.argument("name", metavar="JOB")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after so long (exit code 1).")
@settings_option
def _wait(screen: Screen, *, name: str, timeout: float | None, settings: Path) -> None:
    """Wait for a job's end and tell its course meanwhile, by the cluster's word; takes no password.

    Exit code 0 if the job is done, 1 if it failed, was cancelled or is lost.
    """
    from strongroom.errors import StrongroomError

    until = math.inf if timeout is None else time.monotonic() + timeout
    shown = 0
    for found in open_board(settings).watch(name, until=until):
        for event in found.events[shown:]:
            screen.say(f"{event.get('at', '')} {event.get('what', '')} {_facts(event)}".rstrip())
        shown = len(found.events)
    if not found.over:
        raise StrongroomError(f"job {found.name} still runs: {found.state}", hint="wait longer, or job attach")
    if found.state != "done":
        raise StrongroomError(
            f"job {found.name} is {found.state}{f': {found.why}' if found.why else ''}",
            hint=f"its analyst learns more: strongroom job attach {found.name} --settings {settings}",
        )
    screen.result(_told(found), text=(f"job {found.name} is done",))


@verb(examples=("strongroom job attach delays-0123456789 --settings cluster.toml",), group=job)
@click.argument("name", metavar="JOB")
@settings_option
@home_option
@password_option
def _attach(
    screen: Screen,
    *,
    name: str,
    settings: Path,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Go back to a job that was left to the cluster: attest its driver again and follow it to its end.

    Only the home that handed the job over can: it knows the driver's key. After the driver's end it opens the report
    that the driver sealed to the analyst. Exit codes are those of `strongroom submit`.
    """
    from strongroom.cli.placing import read_settings, recall_left
    from strongroom.cli.submit import tell_event, tell_output
    from strongroom.jobs.launch.kubernetes import KubernetesHost
    from strongroom.jobs.launch.kubernetes.returning import follow_left
    from strongroom.parties.analyst import Analyst
    from strongroom.parties.home import Home

    place = Home(home)
    board = open_board(settings)
    known = place.recall_job(name if place.knows_job(name) else board.history(name).name)
    left = recall_left(known)
    trusted = place.broker(known.broker)
    keys = place.open_keys(password)
    analyst = Analyst(keys.signing, keys.kem, trust=trusted.trust(), memory=place.memory(trusted))
    if trusted.simulated:
        screen.warn_simulated()
    host = KubernetesHost.open(read_settings(settings))
    report = follow_left(
        host,
        left.name,
        attach=lambda address: analyst.attach(left, address, on_event=lambda n, f: tell_event(screen, n, f)),
        read=lambda sealed: analyst.read_report(left, sealed, on_event=lambda n, f: tell_event(screen, n, f)),
    )
    place.remember_job(known.job, digest=known.digest, broker=known.broker, outputs=report.outputs, placed=known.placed)
    outputs = [dict(output) for output in report.outputs]
    screen.result(
        {
            "job": report.job,
            "name": left.name,
            "digest": report.digest,
            "outputs": outputs,
            "timings": dict(report.timings),
        },
        text=(
            f"job {report.job} is done",
            *(tell_output(report.job, output) for output in outputs),
        ),
    )


@verb(examples=("strongroom job status delays-0123456789 --settings cluster.toml",), group=job)
@click.argument("name", metavar="JOB")
@settings_option
def _status(screen: Screen, *, name: str, settings: Path) -> None:
    """Show a job's pods and what is wrong with them, if anything."""
    found = open_board(settings).job(name)
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
@click.option(
    "--role",
    type=click.Choice(("driver", "endpoint", "worker", "egress")),
    help="By default the one that conducts the job: its driver, or an endpoint.",
)
@click.option("--follow", is_flag=True, help="Go on until it ends.")
@settings_option
def _logs(screen: Screen, *, name: str, role: str | None, follow: bool, settings: Path) -> None:
    """Print what a job's pods said to their host; it is little, and never data."""
    lines = open_board(settings).log(name, role=role or "", follow=follow)
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
    found = open_board(settings).cancel(name)
    screen.result(
        {"job": found.name, "was": found.phase}, text=(f"job {found.name} is cancelled, it was {found.phase}",)
    )


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


def _told(found: JobHistory) -> dict[str, Any]:
    return {
        "job": found.name,
        "name": found.title,
        "digest": found.digest,
        "state": found.state,
        "since": found.created,
        "ended": found.ended,
        "why": found.why,
        "detached": found.detached,
    }


def _facts(event: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in event.items() if name not in {"at", "what"})
