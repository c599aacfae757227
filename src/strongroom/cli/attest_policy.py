"""``strongroom attest test-policy``, ``explain``, ``token``: what a policy would say, a quote says, a service said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from strongroom.cli.screen import Screen, paint
from strongroom.cli.verb import verb
from strongroom.errors import EvidenceError, UsageError

NOT_TRUSTED = 4
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@verb(
    name="test-policy",
    examples=(
        "strongroom attest test-policy accept.toml quotes/ --collateral collateral/",
        "strongroom attest test-policy accept.toml quotes/ --collateral collateral/ --early collateral-early/ --json",
    ),
)
@click.argument("policy", type=_FILE)
@click.argument("quotes", type=_FOLDER)
@click.option(
    "--collateral", type=_FOLDER, required=True, metavar="DIR", help="Today's collateral of the quotes' platforms."
)
@click.option("--early", type=_FOLDER, metavar="DIR", help="The same from Intel's early TCB set (fetch --early).")
@click.option("--root", type=_FILE, metavar="DER", help="Verify under this root instead of the vendors'; simulated.")
@click.option("--at", type=float, metavar="UNIX", help="Rehearse as of this time instead of now.")
def test_policy(
    screen: Screen, *, policy: Path, quotes: Path, collateral: Path, early: Path | None, root: Path | None, at: float
) -> int:
    """Say what an appraisal POLICY would answer to every file in QUOTES, and grant nothing.

    QUOTES may hold evidence of any TEE, DIR collateral for any, AMD's certificates too. With --early it also answers
    under the TCB set that Intel will make standard next, so that a platform which stops being accepted is known months
    before. Exit code 0 if everything is accepted under every set, else 4.
    """
    from strongroom.attestation.anchors import INTEL, TrustAnchor
    from strongroom.attestation.criteria import AppraisalPolicy
    from strongroom.attestation.rehearsal import CollateralShelf, rehearse

    now = datetime.now(UTC) if at is None else _time(at)
    anchor = INTEL if root is None else TrustAnchor(root_der=root.read_bytes(), simulated=True)
    files = sorted(path for path in quotes.iterdir() if path.is_file())
    if not files:
        raise UsageError(f"{quotes} holds no quotes", hint="put one quote or piece of evidence into each file")
    evidence = _read_all(files)
    sets = {"today": collateral, **({"early": early} if early else {})}
    rows = rehearse(
        AppraisalPolicy.parse(_text(policy)),
        evidence,
        sets={name: CollateralShelf(folder, now=now) for name, folder in sets.items()},
        anchor=anchor,
        now=now,
    )
    accepted = {name: sum(row.accepted for row in rows if row.set_name == name) for name in sets}
    lost = [row.name for row in rows if row.set_name == "early" and not row.accepted]
    lost = [name for name in lost if any(row.accepted for row in rows if (row.name, row.set_name) == (name, "today"))]
    if anchor.simulated:
        screen.warn_simulated()
    lines = []
    for row in rows:
        lines.append(
            f"{row.name}  {row.set_name:5}  {'accepted' if row.accepted else 'refused'}  {row.status}".rstrip()
        )
        for reason in row.reasons:
            lines.append(f"  {reason['step']}: {reason['reason']}")
            lines += [f"    what to do: {reason['hint']}"] if reason["hint"] else []
    lines += [f"{name}: {count} of {len(evidence)} accepted" for name, count in accepted.items()]
    lines += [f"will be lost under the early set: {', '.join(lost)}"] if lost else []
    screen.result(
        {"quotes": len(evidence), "accepted": accepted, "lost_early": lost, "rows": [row.to_json() for row in rows]},
        text=lines,
    )
    return 0 if all(row.accepted for row in rows) else NOT_TRUSTED


@verb(
    name="explain",
    examples=(
        "strongroom attest explain quote.bin",
        "strongroom attest explain quote.bin --collateral collateral.json --policy accept.toml",
    ),
)
@click.argument("quote", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--collateral", type=_FILE, metavar="FILE", help="Verify it too, with this collateral of its platform.")
@click.option("--root", type=_FILE, metavar="DER", help="Verify under this root instead of the vendors'; simulated.")
@click.option("--at", type=float, metavar="UNIX", help="Verify as of this time instead of now.")
@click.option("--policy", type=_FILE, metavar="FILE", help="Also say what this appraisal policy answers.")
def explain(
    screen: Screen, *, quote: Path, collateral: Path | None, root: Path | None, at: float, policy: Path | None
) -> None:
    """Say in words what a QUOTE says, field by field, and, with collateral, why it is or is not verified."""
    from strongroom.attestation.anchors import INTEL, TrustAnchor
    from strongroom.attestation.collateral_sources import read_collateral
    from strongroom.attestation.criteria import AppraisalPolicy
    from strongroom.attestation.explain import describe_quote, explain_quote, explain_verdict
    from strongroom.attestation.facts import describe_certificate, verify_quote
    from strongroom.parties.evidence_files import read_evidence

    found = read_evidence(quote)
    data = found.quote
    said = explain_quote(data)
    lines = describe_quote(data).splitlines()
    if found.certificate is not None:
        said["certificate"] = describe_certificate(found.certificate)
        lines += ["certificate:", *(f"  {name:<24}{value}" for name, value in said["certificate"].items())]
    if collateral is not None:
        anchor = INTEL if root is None else TrustAnchor(root_der=root.read_bytes(), simulated=True)
        facts = verify_quote(
            data,
            collateral=read_collateral(collateral),
            now=datetime.now(UTC) if at is None else _time(at),
            anchor=anchor,
            policy=None if policy is None else AppraisalPolicy.parse(_text(policy)),
            event_log=found.event_log,
            certificate=found.certificate,
        )
        said["verdict"] = facts
        lines += ["", *explain_verdict(facts).splitlines()]
    elif policy is not None:
        raise UsageError("a policy is about verified quotes", hint="name the collateral as well: --collateral FILE")
    screen.result(said, text=map(paint, lines))


@verb(
    name="token",
    examples=("strongroom attest token token.jwt --service ita --issuer ISSUER --keys jwks.json --report-data HEX",),
)
@click.argument("file", type=_FILE)
@click.option("--service", type=click.Choice(("ita", "maa")), required=True, help="Whose token it is.")
@click.option("--issuer", required=True, metavar="TEXT", help="The issuer, exactly as the service's tokens name it.")
@click.option(
    "--keys", type=_FILE, required=True, metavar="JWKS", help="The service's keys, which you decided to trust."
)
@click.option("--report-data", required=True, metavar="HEX", help="The 64 bytes that you asked the evidence to carry.")
@click.option("--at", type=float, metavar="UNIX", help="Verify as of this time instead of now.")
def verify_service_token(
    screen: Screen, *, file: Path, service: str, issuer: str, keys: Path, report_data: str, at: float | None
) -> None:
    """Verify an attestation TOKEN of Intel Trust Authority (ita) or Microsoft Azure Attestation (maa).

    Whoever accepts it trusts that service to have appraised well; no part of Strongroom does.
    """
    from strongroom.attestation.tokens import TokenService, verify_token

    if not re.fullmatch(r"[0-9a-fA-F]{128}", report_data):
        raise UsageError("report data is 64 bytes, in 128 hex digits")
    result = verify_token(
        _text(file).strip(),
        service=TokenService(kind="ita" if service == "ita" else "maa", issuer=issuer, keys=_text(keys)),
        report_data=bytes.fromhex(report_data),
        now=datetime.now(UTC) if at is None else _time(at),
    ).to_json()
    screen.result(result, text=[f"{name:12} {value}" for name, value in result.items()])


def _read_all(files: Sequence[Path]) -> dict[str, bytes | EvidenceError]:
    """Return every piece of evidence by its file's name; what has none in it is named too, and why it is refused."""
    from strongroom.parties.evidence_files import read_each

    found: dict[str, bytes | EvidenceError] = {}
    for path in files:
        try:
            each = [one.quote for one in read_each(path)]
        except EvidenceError as error:
            found[path.name] = error
            continue
        found |= {path.name if len(each) == 1 else f"{path.name}#{index}": one for index, one in enumerate(each)}
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not text", hint="a policy is TOML, a token and its keys are text") from error


def _time(at: float) -> datetime:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{at} is no time", hint="give seconds since 1970, as `date +%s` prints them") from error


__all__ = ["explain", "test_policy", "verify_service_token"]
