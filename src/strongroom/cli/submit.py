"""``strongroom submit``: sign a job, have it placed, attest its driver, hand it over and follow it to its end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, password_option, verb
from strongroom.errors import UsageError

if TYPE_CHECKING:
    from strongroom.jobs import JobDraft
    from strongroom.parties.home import Home
    from strongroom.parties.submitted import LeftJob

_MOST_RETRIES = 10
CLUSTERS = ("process", "standalone", "k8s")
_SILENT = ("done", "failed")  # said once more, and better, at the end
_ENGINES = {"process": "embedded", "standalone": "spark"}
_DEFAULT = {"sql": "process", "python": "process", "spark": "standalone", "torch": "process"}


@verb(
    examples=(
        "strongroom submit delays.toml --dry-run",
        "strongroom submit delays.toml --platform platform/",
        "strongroom submit delays.toml --platform platform/ --json",
        "strongroom submit delays.toml --cluster standalone --hosts hosts.toml --directory /shared/jobs/delays",
        "strongroom submit delays.toml --cluster k8s --settings cluster.toml",
        "strongroom submit delays.toml --cluster k8s --settings cluster.toml --detach",
    )
)
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.option(
    "--cluster",
    type=click.Choice(CLUSTERS),
    help="Where it is placed: processes (SQL and Python on the embedded engine in one, PyTorch on as many as the job "
    "says), or Spark on workers, or pods of a Kubernetes cluster. The first two use this machine, or those in --hosts. "
    "By default standalone for spark jobs, process for all others.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be created and create nothing; takes no password.")
@click.option(
    "--platform",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The simulated platform that starts the processes on this machine; it protects nothing.",
)
@click.option(
    "--hosts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="HOSTS.toml",
    help="For process and standalone: the machines to place it on, lent by `strongroom worker join` there.",
)
@click.option(
    "--settings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CLUSTER.toml",
    help="For --cluster k8s: the cluster's namespace, image, TEE flavour and volumes.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the job's processes work and leave their encrypted outputs; by default ./NAME.job.",
)
@click.option(
    "--retries",
    type=click.IntRange(0, _MOST_RETRIES),
    default=0,
    show_default=True,
    help="How often to submit the job anew when its driver dies: a new driver proves itself, and each time is a use "
    "of the data.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="For --cluster k8s: leave once the job's keys are released; a keeper in the cluster makes its pods. "
    "See `strongroom job attach` and `strongroom job wait`.",
)
@broker_option
@home_option
@password_option
def submit(
    screen: Screen,
    *,
    job: Path,
    cluster: str | None,
    dry_run: bool,
    platform: Path | None,
    hosts: Path | None,
    settings: Path | None,
    directory: Path | None,
    retries: int,
    detach: bool,
    broker: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Sign, place, attest and follow a job.

    Signs JOB.toml and submits it to the broker, where every owner's policy may refuse it; starts the driver, attests it
    over this very connection, and only then hands over the job and its ticket. Follows it to its end.
    """
    from strongroom.cli.placing import (
        describe_hosts,
        describe_objects,
        open_cluster_host,
        open_host,
        open_hosts,
        read_settings,
    )
    from strongroom.jobs import load_job
    from strongroom.parties.analyst import Analyst
    from strongroom.parties.home import Home
    from strongroom.parties.queries import refuse_query

    draft = load_job(job)
    cluster, engine = _choose(draft.kind, cluster)
    refuse_query(draft, engine=engine)
    if hosts is not None and (cluster == "k8s" or platform is not None):
        raise UsageError("a job is placed in one way", hint="give --hosts, or --platform, or --cluster k8s")
    place_here = (directory or Path(f"{draft.name}.job")).absolute()
    placed = read_settings(settings) if cluster == "k8s" else None
    if detach and retries:
        raise UsageError(
            "a new driver must prove itself to you, so a job that you leave is not submitted anew",
            hint="give --retries or --detach",
        )
    if detach and placed is None:
        raise UsageError(
            "a job on this machine ends with its client",
            hint="use --cluster k8s, or let the shell keep it: nohup strongroom submit ... &",
        )
    if dry_run and placed is not None:
        objects, text = describe_objects(draft, engine=engine, settings=placed, platform=platform, detached=detach)
        screen.result({"objects": objects}, text=text)
        return
    if dry_run:
        plan = _plan(draft, cluster=cluster, directory=directory, hosts=describe_hosts(hosts))
        screen.result(plan, text=_plan_lines(plan))
        return
    here = None if hosts is not None else open_host(draft, settings=placed, platform=platform)
    place = Home(home)
    trusted = place.broker(broker)
    keys = place.open_keys(password)
    host = here or open_hosts(hosts, key=keys.signing, directory=place_here)
    analyst = Analyst(keys.signing, keys.kem, trust=trusted.trust(), memory=place.memory(trusted))
    if placed is None or placed.flavour == "simulated":
        screen.warn_simulated()
    client = analyst.attest_broker(trusted.url)
    handed = Handed(place, broker=trusted.url, settings=settings)
    try:
        client.enrol_member(place.identity_statement())
        if placed is not None and detach:
            left = analyst.leave(
                job,
                broker=client,
                host=open_cluster_host(placed, platform=platform, detached=True),
                engine=engine,
                on_event=lambda name, facts: tell_event(screen, name, facts),
                remember=handed.remember,
            )
            _tell_left(screen, left, settings=settings)
            return
        report = analyst.run(
            job,
            broker=client,
            host=host,
            engine=engine,
            directory=place_here,
            on_event=lambda name, facts: tell_event(screen, name, facts),
            retries=retries,
            remember=handed.remember,
        )
    finally:
        client.close()
    handed.finish(report.outputs)
    outputs = [dict(output) for output in report.outputs]
    screen.result(
        {
            "job": report.job,
            "digest": report.digest,
            "outputs": outputs,
            "timings": dict(report.timings),
            "simulated": report.simulated,
        },
        text=(
            f"job {report.job} is done",
            *(
                tell_output(report.job, output, kept=draft.outputs[output["name"]].kind == "kept-files")
                for output in outputs
            ),
        ),
    )


def _choose(kind: str, cluster: str | None) -> tuple[str, str]:
    """Return how a job of ``kind`` is placed and what runs it; raise UsageError if it cannot be placed so."""
    if kind == "serve":
        raise UsageError("a job of kind serve is not submitted but served", hint="use strongroom serve")
    cluster = cluster or _DEFAULT[kind]
    if cluster == "process" and kind == "spark":
        raise UsageError("one process runs sql and python jobs, not spark", hint="use --cluster standalone")
    if cluster == "standalone" and kind == "python":
        raise UsageError("a python job runs in one process", hint="use --cluster process, or write it for Spark")
    return cluster, _engine(cluster, kind)


def _engine(cluster: str, kind: str) -> str:
    """Return what runs a job of ``kind`` on ``cluster``."""
    if kind == "torch":
        return "torch"
    return _ENGINES.get(cluster) or ("spark" if kind == "spark" else "embedded")


class Handed:
    """Remembers a job in its analyst's home: when it was handed over, and once more when its outputs are known."""

    def __init__(self, place: Home, *, broker: str, settings: Path | None) -> None:
        self._place = place
        self._broker = broker
        self._settings = settings
        self._left: LeftJob | None = None

    def remember(self, left: LeftJob) -> None:
        """Write down a job that was handed over."""
        self._left = left
        self._write([{"name": name} for name in left.outputs])

    def finish(self, outputs: Iterable[Mapping[str, Any]]) -> None:
        """Write down what it left."""
        self._write(outputs)

    def _write(self, outputs: Iterable[Mapping[str, Any]]) -> None:
        from strongroom.cli.placing import describe_placed

        if self._left is not None:
            placed = describe_placed(self._left, self._settings) if self._settings is not None else {}
            self._place.remember_job(
                self._left.job, digest=self._left.digest, broker=self._broker, outputs=outputs, placed=placed
            )


def _tell_left(screen: Screen, left: LeftJob, *, settings: Path | None) -> None:
    screen.result(
        {
            "job": left.job,
            "name": left.name,
            "digest": left.digest,
            "detached": True,
            "timings": dict(left.timings),
            "simulated": left.simulated,
        },
        text=(
            f"job {left.job} goes on by itself as {left.name}",
            f"strongroom job attach {left.name} --settings {settings}",
            *(f"strongroom fetch {left.job} {output}" for output in left.outputs),
        ),
    )


def _plan(draft: JobDraft, *, cluster: str, directory: Path | None, hosts: Sequence[str]) -> dict[str, Any]:
    """Return what a submission would create; it holds digests and names, and nothing secret."""
    engine = _engine(cluster, draft.kind)
    workers = 0 if engine == "embedded" else draft.workers
    processes = [
        {"role": "driver", "count": 1, "tee": draft.tee},
        {
            "role": "worker",
            "count": workers,
            "most": max(workers, draft.most_workers),
            "tee": draft.tee,
            "cores": draft.worker_cores,
            "memory": draft.worker_memory,
        },
        {"role": "egress", "count": 1, "tee": draft.tee},
    ]
    return {
        "job": draft.name,
        "kind": draft.kind,
        "engine": engine,
        "cluster": cluster,
        "purpose": draft.purpose,
        "program": f"sha256:{hashlib.sha256(draft.program).hexdigest()}",
        "inputs": {
            name: {"owner": str(one.owner), "columns": list(one.columns), "location": one.location}
            for name, one in draft.inputs.items()
        },
        "outputs": {
            name: {"kind": one.kind, "recipients": list(map(str, one.recipients))}
            for name, one in draft.outputs.items()
        },
        "processes": [process for process in processes if process["count"]],
        **({"hosts": list(hosts)} if hosts else {}),
        "directory": str(directory or Path(f"{draft.name}.job")),
    }


def _plan_lines(plan: Mapping[str, Any]) -> list[str]:
    return [
        f"job {plan['job']}: {plan['kind']} on {plan['engine']}, for {plan['purpose']!r}, placed by {plan['cluster']}",
        f"program {plan['program']}",
        *(
            f"reads {', '.join(one['columns'])} of {name}, {one['owner']}'s, from {one['location']}"
            for name, one in plan["inputs"].items()
        ),
        *(f"gives {name} to {', '.join(one['recipients'])}" for name, one in plan["outputs"].items()),
        *(_process_line(one) for one in plan["processes"]),
        *([f"on {', '.join(plan['hosts'])}"] if "hosts" in plan else []),
    ]


def _process_line(process: Mapping[str, Any]) -> str:
    most = process.get("most", process["count"])
    count = process["count"] if most == process["count"] else f"{process['count']} to {most}"
    tee = "any TEE" if process["tee"] == "any" else process["tee"]
    return f"starts {count} {process['role']} in {tee}"


def tell_output(job: str, output: Mapping[str, Any], *, kept: bool = False) -> str:
    """Return what to do to get at an output, and what it waits for; one that is ``kept`` stays inside."""
    then = f"strongroom fetch {job} {output['name']}"
    if kept:
        how = f"strongroom register {output['directory']} --output {output['id']}"
        then = f"it stays inside; its owner makes it a dataset: {how}"
    waits = "waits for the owners' approval (strongroom approve), then " if output.get("state") == "pending" else ""
    return f"output {output['name']}: {waits}{then}"


def tell_event(screen: Screen, name: str, facts: Mapping[str, Any]) -> None:
    """Tell the person what a job's driver or its host said."""
    if name == "host-waits":
        screen.say(f"{facts['role']} waits: {facts['why']}")
    if name == "host-lost":
        screen.say(f"machine lost: {facts['why']}")
    if name.startswith("host-") or name in _SILENT:
        return
    shown = ", ".join(_fact(key, value) for key, value in facts.items() if isinstance(value, str | int | float))
    screen.say(f"{name.replace('-', ' ')}{': ' if shown else ''}{shown[:200]}")


def _fact(key: str, value: str | float) -> str:
    if isinstance(value, bool):
        return key if value else f"not {key}"
    return f"{value:.3f} s" if key == "seconds" else f"{key} {value}"
