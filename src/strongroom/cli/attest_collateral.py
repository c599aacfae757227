"""``strongroom attest collateral``: fetch, carry and watch the vendor's collateral."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import VerbGroup, verb

NOT_TRUSTED = 4
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(cls=VerbGroup)
def collateral() -> None:
    """Fetch the vendor's collateral, carry it across an air gap, and watch when it runs out."""


@verb(
    name="fetch",
    group=collateral,
    examples=(
        "strongroom attest collateral fetch collateral/ quote.bin",
        "strongroom attest collateral fetch collateral-early/ quotes/*.bin --early",
        "strongroom attest collateral fetch collateral/ quote.bin --service https://pccs.example:8081",
    ),
)
@click.argument("folder", type=_FOLDER)
@click.argument("quotes", type=_FILE, nargs=-1, required=True)
@click.option("--service", metavar="URL", help="The collateral service: Intel's by default, or a PCCS.")
@click.option("--amd-service", metavar="URL", help="Where AMD's certificates are: AMD by default, or a mirror.")
@click.option("--early", is_flag=True, help="Fetch Intel's early TCB set instead of the standard one.")
@click.option("--proxy", metavar="URL", default="", help="The HTTP proxy to go through; the environment is not read.")
def _fetch(
    screen: Screen,
    *,
    folder: Path,
    quotes: tuple[Path, ...],
    service: str | None,
    amd_service: str | None,
    early: bool,
    proxy: str,
) -> None:
    """Fetch the collateral of the platforms of QUOTES into FOLDER, one fetch per platform model.

    For SGX and TDX that is Intel's, by platform model; for SEV-SNP a chip's own certificate and AMD's revocation list.
    """
    from strongroom.attestation.collateral_sources import CollateralFolder
    from strongroom.attestation.evidence.nitro import looks_like_nitro
    from strongroom.attestation.evidence.pck import parse_pck_chain
    from strongroom.attestation.evidence.quote import parse_quote
    from strongroom.attestation.evidence.snp import looks_like_snp, parse_snp_report
    from strongroom.attestation.genuineness import hardware_part
    from strongroom.attestation.kds import AMD_KDS, KeyDistributionService
    from strongroom.attestation.pcs import INTEL_PCS, CollateralService
    from strongroom.parties.evidence_files import read_evidence

    intel = CollateralService(service or INTEL_PCS, update="early" if early else "standard", proxy=proxy)
    amd = KeyDistributionService(amd_service or AMD_KDS, proxy=proxy)
    place = CollateralFolder(folder)
    wanted: dict[Path, Callable[[], str]] = {}
    for path in quotes:
        evidence = read_evidence(path).quote
        if looks_like_nitro(evidence):
            screen.say(f"{path.name} needs none: its certificates come with it")
            continue
        data = hardware_part(evidence)
        if looks_like_snp(data):
            wanted[place.place_of_report(data)] = partial(amd.fetch, parse_snp_report(data))
            continue
        quote = parse_quote(data)
        target = place.place_of(quote)
        chain = parse_pck_chain(quote.signature.pck_chain)
        fmspc = chain.extension.fmspc.hex().upper()
        wanted[target] = partial(intel.fetch, tee=quote.tee, fmspc=fmspc, ca=chain.ca)
    for target, fetch in wanted.items():
        place.put(target, fetch())
        screen.say(f"fetched {target.name}")
    names = [target.name for target in wanted]
    screen.result({"folder": str(folder), "fetched": names}, text=[f"{len(names)} sets in {folder}"])


@verb(
    name="export",
    group=collateral,
    examples=("strongroom attest collateral export collateral/ bundle.json",),
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("bundle", type=click.Path(dir_okay=False, path_type=Path))
def _export(screen: Screen, *, folder: Path, bundle: Path) -> None:
    """Write every set in FOLDER into one file, BUNDLE, to carry where there is no network."""
    from strongroom.attestation.collateral_bundle import export_bundle

    count = export_bundle(folder, bundle, now=datetime.now(UTC))
    screen.result({"bundle": str(bundle), "sets": count}, text=[f"{count} sets written to {bundle}"])


@verb(
    name="import",
    group=collateral,
    examples=("strongroom attest collateral import bundle.json collateral/",),
)
@click.argument("bundle", type=_FILE)
@click.argument("folder", type=_FOLDER)
def _import(screen: Screen, *, bundle: Path, folder: Path) -> None:
    """Put every set in BUNDLE into FOLDER, except those older than what is there."""
    from strongroom.attestation.collateral_bundle import import_bundle

    answers = import_bundle(bundle, folder)
    screen.result(
        {"folder": str(folder), "sets": answers},
        text=[f"{answer:5}  {name}" for name, answer in sorted(answers.items())],
    )


@verb(
    name="check",
    group=collateral,
    examples=(
        "strongroom attest collateral check collateral/",
        "strongroom attest collateral check collateral/ --metrics /var/lib/node_exporter/strongroom.prom",
    ),
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--metrics",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the seconds left per document to FILE, in the Prometheus text format.",
)
def _check(screen: Screen, *, folder: Path, metrics: Path | None) -> int:
    """Say when each document in FOLDER runs out, the most pressing first; exit code 4 if one has."""
    from strongroom.attestation.collateral_bundle import format_metrics, list_expiries, write_metrics

    found = list_expiries(folder, now=datetime.now(UTC))
    if metrics is not None:
        write_metrics(metrics, format_metrics(found))
    rows = [
        {
            "set": one.set_name,
            "document": one.document,
            "expires": f"{one.expires:%FT%TZ}",
            "days_left": round(one.left.total_seconds() / 86400, 1),
            "state": one.state,
        }
        for one in found
    ]
    screen.result(
        {"documents": rows},
        text=[f"{row['state']:7}  {row['expires']}  {row['set']}  {row['document']}" for row in rows],
    )
    return NOT_TRUSTED if any(one.state == "expired" for one in found) else 0
