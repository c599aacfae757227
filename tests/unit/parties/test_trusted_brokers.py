"""A party trusts the brokers it named, by measurement and vendor, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.parties.brokers import (
    ChangedRootError,
    IntelVendor,
    SimulatedVendor,
    TrustedBroker,
    TrustSettingsError,
    parse_broker_url,
    read_measurements,
)
from strongroom.parties.home import DamagedHomeError, Home

ONE = "sgx:" + "1" * 64
TWO = "tdx:" + "2" * 96
URL = "https://broker.example:7443"
INTEL = IntelVendor(collateral=Path("/collateral.json"))


def broker(url: str = URL, **settings: object) -> TrustedBroker:
    return TrustedBroker(**{"url": url, "measurements": {Role.BROKER: frozenset({ONE})}, "vendor": INTEL, **settings})


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    made = SimulatedPlatform(tmp_path / "platform")
    made.expose()
    return made.directory


def test_trust_settings_survive_the_file(tmp_path: Path, platform: Path) -> None:
    home = Home(tmp_path / "home")
    simulated = broker("https://127.0.0.1:1", vendor=SimulatedVendor.pin(platform))
    home.trust(broker())
    home.trust(simulated)
    assert Home(tmp_path / "home").brokers() == (broker(), simulated)
    assert [one.simulated for one in home.brokers()] == [False, True]


def test_naming_a_broker_again_replaces_what_was_known(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.trust(broker())
    home.trust(broker(measurements={Role.BROKER: frozenset({TWO})}))
    (only,) = home.brokers()
    assert only.measurements[Role.BROKER] == {TWO}


def test_the_only_broker_needs_no_name_and_an_unknown_one_is_not_trusted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(TrustSettingsError, match="trusts 0 brokers"):
        home.broker()
    home.trust(broker())
    assert home.broker() == broker()
    with pytest.raises(TrustSettingsError, match="does not trust a broker"):
        home.broker("https://other.example:7443")
    home.trust(broker("https://second.example:1"))
    with pytest.raises(TrustSettingsError, match="trusts 2 brokers"):
        home.broker()
    home.forget(URL)
    assert home.broker().url == "https://second.example:1"


def test_trust_without_a_broker_measurement_has_no_spelling() -> None:
    for measurements in ({}, {Role.DRIVER: frozenset({ONE})}, {Role.BROKER: frozenset()}):
        with pytest.raises(TrustSettingsError, match="no measurement"):
            broker(measurements=measurements)


@pytest.mark.parametrize("text", ["", "sgx:", "sgx:" + "g" * 64, "sgx:" + "A" * 64, "snp:" + "1" * 96, ONE + "0", "*"])
def test_what_is_no_measurement_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(TrustSettingsError, match="not a measurement"):
        broker(measurements={Role.BROKER: frozenset({text})})


@pytest.mark.parametrize(
    "url",
    [
        "http://b:1",
        "https://b",
        "b:1",
        "https://b:1/x",
        "https://u@b:1",
        "https://b:1?q",
        "https://b:1#f",
        "https://b:x",
        "",
    ],
)
def test_only_https_with_host_and_port_is_a_brokers_address(url: str) -> None:
    with pytest.raises(TrustSettingsError):
        parse_broker_url(url)


def test_simulated_root_that_changed_after_it_was_pinned_is_refused(platform: Path) -> None:
    """A host that swaps the simulated platform for its own would otherwise be believed."""
    trusted = broker(vendor=SimulatedVendor.pin(platform))
    assert trusted.trust().anchor.simulated
    (platform / "root.der").write_bytes((platform / "root.der").read_bytes() + b"\0")
    with pytest.raises(ChangedRootError, match="pinned"):
        trusted.trust()
    (platform / "root.der").unlink()
    with pytest.raises(ChangedRootError, match="gone"):
        trusted.trust()


def test_intel_vendor_means_the_compiled_in_root() -> None:
    assert not broker().trust().anchor.simulated


def test_measurements_come_from_what_measure_printed_and_from_single_ones(tmp_path: Path) -> None:
    file = tmp_path / "reference.json"
    file.write_text(
        json.dumps({"tee": "sgx", "simulated": True, "measurements": {"broker": ONE, "driver": [ONE, TWO]}})
    )
    found = read_measurements([f"broker={TWO}"], files=[file])
    assert found == {Role.BROKER: {ONE, TWO}, Role.DRIVER: {ONE, TWO}}


def test_measurements_of_two_releases_are_both_accepted(tmp_path: Path) -> None:
    """As during an upgrade; none of two files may be dropped without a word."""
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    for file, measurement in zip(files, (ONE, TWO), strict=True):
        file.write_text(json.dumps({"measurements": {"broker": measurement}}))
    assert read_measurements([], files=files) == {Role.BROKER: {ONE, TWO}}


@pytest.mark.parametrize("content", ["", "[]", '{"broker": 1}', '{"broker": [1]}', '"x"'])
def test_file_without_measurements_is_said_to_be_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "f").write_text(content)
    with pytest.raises(TrustSettingsError):
        read_measurements([], files=[tmp_path / "f"])


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"brokers": {}}',
        '{"brokers": [{}]}',
        '{"brokers": [{"url": "https://b:1", "measurements": {"broker": "x"}, "vendor": {"intel": "/c"}}]}',
        '{"brokers": [{"url": "https://b:1", "measurements": {"broker": "' + ONE + '"}, "vendor": "any"}]}',
    ],
)
def test_damaged_trust_settings_trust_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "trust.json").write_text(content)
    with pytest.raises(DamagedHomeError, match=r"trust\.json is damaged"):
        Home(tmp_path).brokers()


def test_each_broker_has_its_own_memory(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.memory(broker()).path != home.memory(broker("https://other:1")).path
