"""``strongroom fetch``: get a finished job's result, decrypted at home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, password_option, verb
from strongroom.errors import UsageError

if TYPE_CHECKING:
    from strongroom.envelope.files import SealedFiles

_SHOWN = 20


@verb(
    examples=(
        "strongroom fetch 7c1e...",
        "strongroom fetch 7c1e... delays --to delays.parquet",
        "strongroom fetch 7c1e... delays --to delays.csv --json",
        "strongroom fetch 7c1e... model --to model/",
        "strongroom fetch delays-0123456789 --settings cluster.toml",
    )
)
@click.argument("job")
@click.argument("output", required=False)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the rows, in plaintext, to this .parquet or .csv file, or a model's files to this new directory; "
    "without it, the first rows, or the files' names, are printed.",
)
@click.option(
    "--from",
    "location",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the encrypted output lies, if it was moved since the job ended.",
)
@click.option(
    "--settings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CLUSTER.toml",
    help="The cluster that ran the job, if this home does not know: the encrypted output is brought from there.",
)
@broker_option
@home_option
@password_option
def fetch(
    screen: Screen,
    *,
    job: str,
    output: str | None,
    target: Path | None,
    location: Path | None,
    settings: Path | None,
    broker: str | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Get a finished job's result and decrypt it here.

    Asks the attested broker for the result's key and verifies every file. OUTPUT may be left out if JOB has only one.
    While approvals are missing, or after an owner revoked, the answer is a refusal with its reasons (exit code 3).
    """
    import pyarrow as pa

    from strongroom.cli.fetching import locate_output, recall_anywhere
    from strongroom.parties.analyst import Analyst
    from strongroom.parties.home import Home

    if target is not None and target.suffix not in (".parquet", ".csv", ""):
        raise UsageError(f"cannot write {target.suffix}", hint="name a .parquet or a .csv file, or a new directory")
    place = Home(home)
    known = recall_anywhere(place, job, settings=settings, broker=broker)
    chosen = known.choose(output)
    trusted = place.broker(known.broker or None)
    keys = place.open_keys(password)
    analyst = Analyst(keys.signing, keys.kem, trust=trusted.trust(), memory=place.memory(trusted))
    if trusted.simulated:
        screen.warn_simulated()
    client = analyst.attest_broker(trusted.url)
    try:
        with locate_output(screen, known, chosen, given=location, settings=settings) as locate:
            found = analyst.fetch_any(broker=client, digest=known.digest, output=chosen, locate=locate)
            if not isinstance(found, pa.Table):
                _show_files(screen, found, job=job, output=chosen, target=target)
                return
            table = found
    finally:
        client.close()
    if target is not None and not target.suffix:
        raise UsageError(f"output {chosen} is a table", hint="name a .parquet or a .csv file")
    if target is not None:
        place.write_result(table, target)
    shown = table.slice(0, _SHOWN).to_pylist()
    facts = {"job": job, "output": chosen, "rows": table.num_rows, "columns": table.column_names}
    screen.result(
        {**facts, "file": str(target)} if target else {**facts, "result": table.to_pylist()},
        text=(f"{table.num_rows:,} rows of {chosen} written to {target}",)
        if target
        else (
            screen.table(chosen, table.column_names, [list(row.values()) for row in shown]),
            f"{table.num_rows:,} rows",
        ),
    )


def _show_files(screen: Screen, files: SealedFiles, *, job: str, output: str, target: Path | None) -> None:
    """Unpack a model's files into ``target``, or say which there are."""
    from strongroom.envelope.staging import staged_directory
    from strongroom.workload.files import unpack

    sizes = dict(files)
    if target is not None:
        with staged_directory(target) as staging:
            unpack(files, staging)
    facts = {"job": job, "output": output, "files": sizes}
    screen.result(
        {**facts, "directory": str(target)} if target else facts,
        text=(f"{len(sizes)} files of {output} written to {target}",)
        if target
        else (screen.table(output, ["file", "bytes"], [[name, size] for name, size in sizes.items()]),),
    )
