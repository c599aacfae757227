"""``strongroom encrypt``: turn an owner's tables into an encrypted dataset, at home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import custody_password_option, home_option, opening, password_option, verb
from strongroom.errors import UsageError


@verb(
    examples=(
        "strongroom encrypt flights.csv --dataset flights --to encrypted/flights",
        "strongroom encrypt 2025/*.parquet --dataset claims --version 2 --to encrypted/claims-2",
        "strongroom encrypt model/ --files --dataset tumour-model --to encrypted/tumour-model",
        "strongroom encrypt claims.csv --dataset claims --to claims/ \\",
        "    --custody 'openbao://bao.example:8200/transit/claims?ca=/etc/bao/ca.pem&token_file=/etc/bao/token'",
        "strongroom encrypt claims.csv --dataset claims --to claims/ \\",
        "    --custody 'pkcs11:token=clinic;object=claims?module-path=/usr/lib/softhsm/libsofthsm2.so'",
    )
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="SOURCE...")
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new directory.")
@click.option("--dataset", required=True, help="The dataset's name.")
@click.option("--version", type=click.IntRange(min=1), default=1, show_default=True, help="The dataset's version.")
@click.option("--files", "as_files", is_flag=True, help="SOURCE is one folder; encrypt its files as they are.")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="Take this column only; repeat it for more.")
@click.option("--null", "nulls", multiple=True, metavar="TEXT", help="A CSV text that means no value, such as NA.")
@click.option(
    "--custody",
    "custody_uri",
    metavar="URI",
    help="Where the master key is: file:/path/master.key, openbao://host:port/mount/key?... or "
    "pkcs11:token=NAME;object=KEY?..., by default the home's own master key.",
)
@custody_password_option
@home_option
@password_option
def encrypt(
    screen: Screen,
    *,
    sources: tuple[Path, ...],
    target: Path,
    dataset: str,
    version: int,
    as_files: bool,
    columns: tuple[str, ...],
    nulls: tuple[str, ...],
    custody_uri: str | None,
    custody_password: Callable[[], bytes] | None,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Encrypt tables into a new dataset directory, or the files of a folder as they are.

    SOURCE is a file or a folder of CSV, JSON lines, Parquet, ORC or Arrow; with --files, a folder of files of any kind,
    such as a model's.

    It happens on this machine, streaming: each column under its own key, the data key wrapped by the master key, the
    manifest signed by the owner. The directory may then be stored anywhere.
    """
    from strongroom.envelope.custody import open_custody
    from strongroom.envelope.files import INDEX_FILE
    from strongroom.parties.home import Home
    from strongroom.parties.owner import Owner

    place = Home(home)
    owner = Owner.at_home(place, password=password)
    uri = custody_uri or place.default_custody
    custody = open_custody(uri, password=opening(uri, home=place, password=password, other=custody_password))
    with screen.progress(f"encrypt {dataset}") as advance:
        if as_files:
            if len(sources) != 1 or columns or nulls:
                raise UsageError("--files takes one folder, and no columns or nulls", hint="encrypt each by itself")
            manifest = owner.encrypt_files(
                sources[0], target, dataset=dataset, version=version, custody=custody, progress=advance
            )
        else:
            manifest = owner.encrypt(
                sources,
                target,
                dataset=dataset,
                version=version,
                custody=custody,
                columns=columns or None,
                nulls=("", *nulls),
                progress=advance,
            )
    held = f"{manifest.rows:,} rows, {len(manifest.columns)} columns"
    if as_files:
        count = sum(stored.path != INDEX_FILE for stored in manifest.files)
        held = f"{count:,} file{'s' * (count != 1)}"
    screen.result(
        {
            "dataset": manifest.dataset,
            "version": manifest.version,
            "directory": str(target),
            "rows": manifest.rows,
            "columns": list(manifest.columns),
            "files": len(manifest.files),
            "bytes": manifest.size,
            "manifest": manifest.digest,
            "custody": manifest.custody,
        },
        text=[
            f"{manifest.dataset} version {manifest.version}: {held}",
            f"{manifest.size:,} encrypted bytes in {target}",
        ],
    )
