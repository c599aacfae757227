"""``strongroom worker join``: lend this machine to jobs that are placed from others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import VerbGroup, verb
from strongroom.errors import UsageError

_MOST_PROCESSES = 1000
_EXAMPLE = (
    "strongroom worker join --listen 10.0.0.2:7420 --platform /shared/platform --jobs /shared/jobs "
    "--admit ana:0123456789abcdef0123456789abcdef"
)


@click.group(cls=VerbGroup)
def worker() -> None:
    """Lend this machine to jobs that are placed from others."""


@verb(
    name="join",
    group=worker,
    examples=(_EXAMPLE,),
)
@click.option(
    "--listen",
    required=True,
    metavar="HOST:PORT",
    help="Where launchers reach this machine, and drivers that run here listen; port 0 takes a free one.",
)
@click.option(
    "--platform",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The simulated platform that measures and starts processes, shared by all machines; it protects nothing.",
)
@click.option(
    "--jobs",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The directory below which jobs work, on storage that all machines see under this path.",
)
@click.option(
    "--admit",
    "admits",
    required=True,
    multiple=True,
    metavar="PARTY",
    help="A party whose jobs may run here; repeat it for more.",
)
@click.option(
    "--most",
    type=click.IntRange(1, _MOST_PROCESSES),
    default=8,
    show_default=True,
    help="How many processes of jobs may run here at once.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.strongroom-host"),
    show_default=True,
    metavar="DIR",
    help="Where the agent keeps its certificate and the logs of what it started.",
)
@click.option("--tee", type=click.Choice(("sgx", "tdx")), default="sgx", show_default=True, help="The kind of quotes.")
def _join(
    screen: Screen,
    *,
    listen: str,
    platform: Path,
    jobs: Path,
    admits: tuple[str, ...],
    most: int,
    directory: Path,
    tee: str,
) -> None:
    """Wait for jobs of the named parties and start their processes here, until Ctrl-C.

    Prints the address and the certificate for the analysts' hosts file. This program is trusted by nobody: it holds no
    secret of a job, and what it starts has to prove itself to the job's driver.
    """
    from strongroom.attestation.simulated.platform import SimulatedPlatform
    from strongroom.parties.operator import Operator
    from strongroom.statements import PartyId

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"not an address: {listen!r}", hint="write HOST:PORT, for example 10.0.0.2:7420")
    found = SimulatedPlatform.found_in(platform, tee="tdx" if tee == "tdx" else "sgx")
    screen.warn_simulated()
    agent = Operator(found).lend(
        admits=[PartyId.parse(text) for text in admits],
        jobs=jobs,
        directory=directory.expanduser().absolute(),
        most=most,
        on_event=lambda name, facts: _tell(screen, name, facts),
    )
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: over.set())
    where = "{}:{}".format(*agent.listen((host, int(port))))
    try:
        screen.result(
            {"address": where, "certificate": agent.certificate.digest, "most": most, "simulated": True},
            text=("[[hosts]]", f'address = "{where}"', f'certificate = "{agent.certificate.digest}"'),
        )
        over.wait()
        screen.say("stopping: every job here loses this machine")
    finally:
        agent.close()


def _tell(screen: Screen, name: str, facts: Mapping[str, Any]) -> None:
    screen.say(f"{name.replace('-', ' ')}: {', '.join(f'{key} {value}' for key, value in facts.items())}"[:300])
