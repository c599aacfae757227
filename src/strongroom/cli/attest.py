"""``strongroom attest``: verify or explain a quote, attest a running broker, rehearse a policy, keep collateral."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from strongroom.cli.attest_collateral import collateral as collateral_forms
from strongroom.cli.attest_doctor import doctor
from strongroom.cli.attest_policy import explain, test_policy, verify_service_token
from strongroom.cli.screen import Screen
from strongroom.cli.verb import VerbGroup, broker_option, home_option, verb
from strongroom.errors import EvidenceError, UsageError

NOT_TRUSTED = 4


@click.group(cls=VerbGroup)
def attest() -> None:
    """Verify or explain quotes, attest a running broker, rehearse an appraisal policy, keep collateral."""


@verb(
    name="verify",
    group=attest,
    examples=(
        "strongroom attest verify quote.bin --collateral collateral.json",
        "strongroom attest verify quote.bin --collateral collateral.json --policy accept.toml --json",
        "strongroom attest verify quote.bin --collateral platform/collateral.json --root platform/root.der",
    ),
)
@click.argument("quote", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--collateral",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The vendor's collateral for the platform: QuoteCollateralV3 in JSON, also as Intel's library keeps it; for "
    "SEV-SNP a VCEK or VLEK, or JSON.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="DER",
    help="Verify under this root instead of Intel's; the result is then marked simulated.",
)
@click.option("--at", type=float, metavar="UNIX", help="Verify as of this time (seconds since 1970) instead of now.")
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="An appraisal policy (TOML); without one only facts are stated.",
)
@click.option(
    "--reference",
    "references",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Signed reference values that the policy names (`strongroom measure --publish`); may be repeated.",
)
@click.option(
    "--event-log",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The boot event log of a trust domain (CCEL), which must replay to the quote's registers.",
)
@click.option(
    "--runtime-log",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The log of what a workload did after boot, which must replay to RTMR3.",
)
def _verify(
    screen: Screen,
    *,
    quote: Path,
    collateral: Path | None,
    root: Path | None,
    at: float | None,
    policy: Path | None,
    references: tuple[Path, ...],
    event_log: Path | None,
    runtime_log: Path | None,
) -> int:
    """Verify the QUOTE in a file: genuine, intact, not revoked, not debug.

    QUOTE is raw bytes, hexadecimal or base64 text, JSON with a quote in it, or an RA-TLS certificate; FILE#1 is the
    second quote in a file of several. Exit code 0 if it is verified (and, with a policy, accepted), else 4. Nothing
    binds a quote in a file to anybody: a verified one is no reason to give anyone anything, and a certificate around
    it changes nothing about that.
    """
    from strongroom.attestation.anchors import INTEL, TrustAnchor
    from strongroom.attestation.collateral_sources import read_collateral
    from strongroom.attestation.criteria import AppraisalPolicy
    from strongroom.attestation.facts import reject, verify_quote
    from strongroom.attestation.published_values import fill_in
    from strongroom.parties.evidence_files import read_evidence
    from strongroom.statements import Statement

    anchor = INTEL if root is None else TrustAnchor(root_der=root.read_bytes(), simulated=True)
    now = datetime.now(UTC) if at is None else _time(at)
    rules = None if policy is None else AppraisalPolicy.parse(_text(policy))
    if rules is not None:
        rules = fill_in(rules, [Statement.decode(_text(file)) for file in references], now=now)
    try:
        found = read_evidence(quote)
        facts = verify_quote(
            found.quote,
            collateral="" if collateral is None else read_collateral(collateral),
            now=now,
            anchor=anchor,
            policy=rules,
            event_log=found.event_log if event_log is None else event_log.read_bytes(),
            runtime_log=b"" if runtime_log is None else runtime_log.read_bytes(),
            certificate=found.certificate,
        )
    except EvidenceError as error:
        facts = reject(error, simulated=anchor.simulated)
    if collateral is None and facts["step"] == "collateral":
        facts |= {"reason": "no collateral was given", "hint": "name the platform's collateral: --collateral FILE"}
    if anchor.simulated:
        screen.warn_simulated()
    screen.result(facts, text=_lines(facts))
    return 0 if facts["verdict"] == "verified" and facts.get("accepted", True) else NOT_TRUSTED


@verb(
    name="broker",
    group=attest,
    examples=("strongroom attest broker", "strongroom attest broker --broker https://broker.example:7443 --json"),
)
@broker_option
@home_option
def _broker(screen: Screen, *, broker: str | None, home: Path) -> None:
    """Attest a broker this party trusts: fresh evidence, over this very connection, of an expected measurement."""
    from strongroom.parties.auditor import Auditor
    from strongroom.parties.home import Home

    place = Home(home)
    trusted = place.broker(broker)
    client = Auditor(trust=trusted.trust(), memory=place.memory(trusted)).attest_broker(trusted.url)
    try:
        result = client.result.to_json()
    finally:
        client.close()
    if trusted.simulated:
        screen.warn_simulated()
    screen.result(
        {"broker": trusted.url, **result},
        text=(
            f"{trusted.url} is attested",
            f"measurement  {result['measurement']}",
            f"TCB          {result['tcb_status']}, tier {result['tier']}"
            + (" (as whatever is simulated)" if trusted.simulated else ""),
        ),
    )


attest.add_command(explain)
attest.add_command(test_policy)
attest.add_command(verify_service_token)
attest.add_command(collateral_forms)
attest.add_command(doctor)


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [facts["verdict"]]
    if facts["verdict"] == "verified":
        advisories = ", ".join(facts["advisories"]) or "none"
        lines += [f"status        {facts['status']}", f"advisories    {advisories}"]
        lines += [f"{name:13} {value}" for name, value in facts["claims"].items() if isinstance(value, str | int)]
    else:
        lines += [f"step        {facts['step']}", f"reason      {facts['reason']}"]
        lines += [f"hint        {facts['hint']}"] if facts["hint"] else []
    if "accepted" in facts:
        lines.append("accepted by the policy" if facts["accepted"] else "not accepted by the policy:")
        lines += [f"  - {reason['step']}: {reason['reason']}" for reason in facts["reasons"]]
    return lines


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not text", hint="collateral is JSON, a policy is TOML") from error


def _time(at: float) -> datetime:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{at} is no time", hint="give seconds since 1970, as `date +%s` prints them") from error
