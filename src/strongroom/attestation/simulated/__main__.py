"""Be the first process of a container that has a simulated TEE: start one measured workload and end as it ends.

``python -m strongroom.attestation.simulated run --role driver --job-digest D -- ARGUMENTS``. A container cannot inherit
a socket from the launcher, so the platform lives in it, beside the workload. It protects nothing from anybody, and the
seed it starts from is no secret: whoever has it can forge evidence of this platform.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from strongroom.attestation.simulated.measuring import ENTRY
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.attestation.simulated.process import SimulatedProcess
from strongroom.errors import StrongroomError, UsageError

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNAL_EXIT = 128


def supervise(process: SimulatedProcess) -> int:
    """Pass signals on to the workload, reap what it leaves behind, and return its exit code as a shell would.

    Process 1 of a container inherits every orphan; one that nobody reaps keeps its process number for ever.
    """

    def forward(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()

    for number in _FORWARDED:
        signal.signal(number, forward)
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None and ended.si_pid != process.pid:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(ended.si_pid, 0)
    code = process.wait()
    return code if code >= 0 else _SIGNAL_EXIT - code


def lay_seed(file: Path, directory: Path) -> None:
    """Copy a seed from where the cluster shows it to everybody into the platform's own directory."""
    try:
        seed = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the simulated platform's seed {file}: {error.strerror}", hint="mount the config map with it"
        ) from error
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = directory / "seed"
    if kept.exists():
        if kept.read_bytes() != seed:
            raise UsageError(f"{directory} belongs to another simulated platform", hint="name another directory")
        return
    descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one role; nothing given here is secret, and the simulated TEE keeps nothing secret."""
    parser = argparse.ArgumentParser(prog="python -m strongroom.attestation.simulated")
    run = parser.add_subparsers(dest="verb", required=True).add_parser("run", help="start one measured workload")
    run.add_argument("--role", choices=sorted(ENTRY), required=True)
    run.add_argument("--job-digest", default="")
    run.add_argument("--tee", choices=("sgx", "tdx"), default="sgx")
    run.add_argument(
        "--platform", type=Path, help="the platform's directory; by default one that ends with this process"
    )
    run.add_argument("--seed", type=Path, help="a file with the seed that several containers share")
    run.add_argument("arguments", nargs="*", help="after --: the workload's own")
    asked = parser.parse_args(argv)
    directory: Path = asked.platform or Path(tempfile.mkdtemp(prefix="strongroom-platform-"))
    try:
        if asked.seed is not None:
            lay_seed(asked.seed, directory)
        platform = SimulatedPlatform(directory, tee=asked.tee)
        return supervise(platform.start(asked.role, asked.arguments, job_digest=asked.job_digest))
    except StrongroomError as error:
        said = {"event": "failed", "kind": error.kind, "message": error.message, "hint": error.hint}
        sys.stdout.write(json.dumps(said) + "\n")
        return error.exit_code
    finally:
        if asked.platform is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
