"""Somebody has the owner write the token's PIN where others read it, or has it sent to a program of theirs."""

from __future__ import annotations

import pytest

from strongroom.envelope.custody import CustodyError, create_custody, open_custody


def never():
    raise AssertionError("nothing may be asked, loaded or tried")


@pytest.mark.parametrize("make", [open_custody, create_custody])
@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:token=t;object=k?pin-value=vault-4711",
        "pkcs11:token=t;object=k?module-path=/nowhere.so&pin-value=vault-4711",
        "pkcs11:token=t;object=k;pin-value=vault-4711",
        "pkcs11:token=t;object=k?PIN-value=vault-4711",
        "pkcs11:pin-value=vault-4711",
    ],
)
def test_pin_in_an_address_is_refused_and_not_repeated(make, uri):
    with pytest.raises(CustodyError, match="a PIN must not stand in the address") as refused:
        make(uri, password=never)
    assert "vault-4711" not in str(refused.value) + refused.value.hint
    assert "change it" in refused.value.hint


@pytest.mark.parametrize("source", ["|/usr/bin/id", "%7C/usr/bin/id", "https://thief.example/pin", "file://thief/pin"])
def test_pin_is_never_fetched_by_a_program_or_over_a_network(source):
    with pytest.raises(CustodyError, match="pin-source is"):
        open_custody(f"pkcs11:token=t;object=k?module-path=/nowhere.so&pin-source={source}", password=never)
