"""Collateral crosses an air gap in one file, never goes back, and says when it runs out."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from amd_vendor import AmdVendor

from strongroom.attestation.collateral_bundle import export_bundle, format_metrics, import_bundle, list_expiries
from strongroom.attestation.collateral_sources import CollateralFolder
from strongroom.attestation.failures import CollateralError
from strongroom.attestation.simulated.pki import Vendor
from strongroom.errors import UsageError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"b" * 32)
AMD = AmdVendor("Milan")


def fill(folder: Path, *, now: datetime = NOW) -> Path:
    place = CollateralFolder(folder)
    for tee in ("sgx", "tdx"):
        place.add(VENDOR.collateral(tee, now=now))
    place.add_endorsements(AMD.report(), AMD.endorsements(crl=AMD.crl(now=now)))
    return folder


def test_what_was_exported_is_imported_and_serves_the_same_machines(tmp_path: Path) -> None:
    source, bundle, target = fill(tmp_path / "here"), tmp_path / "bundle.json", tmp_path / "there"
    assert export_bundle(source, bundle, now=NOW) == 3
    assert set(import_bundle(bundle, target).values()) == {"new"}
    assert CollateralFolder(target).collateral(AMD.report()) == CollateralFolder(source).collateral(AMD.report())
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    assert set(import_bundle(bundle, target).values()) == {"same"}


def test_an_older_bundle_replaces_nothing(tmp_path: Path) -> None:
    old, new, target = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "there"
    export_bundle(fill(tmp_path / "a", now=NOW), old, now=NOW)
    export_bundle(fill(tmp_path / "b", now=NOW + timedelta(days=2)), new, now=NOW)
    import_bundle(old, target)
    assert set(import_bundle(new, target).values()) == {"newer"}
    before = {path.name: path.read_text() for path in target.iterdir()}
    assert set(import_bundle(old, target).values()) == {"older"}
    assert {path.name: path.read_text() for path in target.iterdir()} == before


def test_a_damaged_bundle_writes_nothing(tmp_path: Path) -> None:
    bundle, target = tmp_path / "bundle.json", tmp_path / "there"
    export_bundle(fill(tmp_path / "here"), bundle, now=NOW)
    sound = json.loads(bundle.read_text())
    name = next(iter(sound["sets"]))
    for broken in (
        {**sound, "format": "other"},
        {**sound, "sets": {}},
        {**sound, "sets": {**sound["sets"], "../../etc/passwd": "x"}},
        {**sound, "sets": {**sound["sets"], name: "{}"}},
        {**sound, "sets": {**sound["sets"], name: 3}},
        [],
    ):
        bundle.write_text(json.dumps(broken))
        with pytest.raises(CollateralError):
            import_bundle(bundle, target)
    bundle.write_text("[" * 100_000)
    with pytest.raises(CollateralError):
        import_bundle(bundle, target)
    with pytest.raises(CollateralError):
        import_bundle(tmp_path / "nothing", target)
    assert not target.exists()
    with pytest.raises(UsageError):
        export_bundle(tmp_path / "nowhere", bundle, now=NOW)


def test_every_document_says_when_it_runs_out_the_most_pressing_first(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    found = list_expiries(folder, now=NOW)
    assert len(found) == 4 + 4 + 2
    assert {one.state for one in found} == {"ok"}
    assert [one.left for one in found] == sorted(one.left for one in found)
    assert {one.state for one in list_expiries(folder, now=NOW + timedelta(days=22))} == {"soon", "ok"}
    assert list_expiries(folder, now=NOW + timedelta(days=28))[0].state == "urgent"
    assert list_expiries(folder, now=NOW + timedelta(days=31))[0].state == "expired"
    metrics = format_metrics(found)
    assert metrics.count("strongroom_collateral_expiry_seconds{") == 10
    assert 'document="amd_crl"} 7776000' in metrics
