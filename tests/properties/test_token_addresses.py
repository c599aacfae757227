"""Whatever text arrives as the address of a token's key, it is one that could have been written, or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.envelope.custody.failure import CustodyError
from strongroom.envelope.custody.pkcs11_uri import MAX_URI_CHARACTERS, TokenKey

LABEL = st.text(st.characters(codec="utf-8"), max_size=32).filter(
    lambda text: text.isprintable() and text == text.strip()
)
NAMED = LABEL.filter(bool)
FILE = NAMED.map(lambda text: Path("/" + text)).filter(lambda path: str(path) == str(path).strip())
KEYS = st.builds(
    TokenKey,
    token=NAMED, serial=LABEL, model=LABEL, manufacturer=LABEL, object=NAMED, id=st.binary(max_size=20),
    module=st.none() | FILE, pin_source=st.none() | FILE,
).filter(lambda key: len(str(key)) <= MAX_URI_CHARACTERS)  # fmt: skip
PIECES = st.sampled_from(
    ["pkcs11:", "token=", "object=", "id=", "serial=", "type=secret-key", ";", "?", "&", "module-path=/", "pin-source=",
     "pin-value=", "%", "%4", "%00", "%FF", "%2F", "a", "=", "|", "file:", "file://", "/", "#", " ", "é", "slot-id=1"]
)  # fmt: skip


@given(KEYS)
def test_every_address_reads_back_as_what_was_written(key):
    assert TokenKey.parse(str(key)) == key


@given(
    st.text(max_size=120)
    | st.lists(PIECES, max_size=24).map("".join)
    | st.lists(PIECES).map(lambda one: "pkcs11:" + "".join(one))
)
def test_any_text_is_an_address_in_one_form_or_refused(text):
    try:
        key = TokenKey.parse(text)
    except CustodyError:
        return
    assert TokenKey.parse(str(key)) == key
    assert str(TokenKey.parse(str(key))) == str(key)
    assert key.token or key.serial
    assert key.object or key.id
    assert "pin-value" not in text.partition("?")[2].split("&")


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=20), st.booleans(), KEYS)
def test_no_error_repeats_a_pin(pin, in_query, key):
    text = str(key)
    joint = ("&" if "?" in text else "?") if in_query else ";"
    place = text if in_query else text.partition("?")[0]
    for name in ("pin-value", "PIN-VALUE", "pin", "password", "x-pin"):
        with pytest.raises(CustodyError) as refused:
            TokenKey.parse(f"{place}{joint}{name}={pin}")
        assert not re.search(rf"\b{pin}\b", str(refused.value) + refused.value.hint)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pkcs11:", "names a token"),
        ("pkcs11:token=t", "names a token"),
        ("pkcs11:object=k", "names a token"),
        ("pkcs11:token=;object=k", "token has a value"),
        ("pkcs11:token=t;object=k;", "got something else"),
        ("pkcs11:token=t;object=k;slot-id=1", "got slot-id"),
        ("pkcs11:token=t;token=u;object=k", "names token once"),
        ("pkcs11:token=t;object=a/b", "object has a value"),
        ("pkcs11:token=t;object=a%", "object has a value"),
        ("pkcs11:token=t;object=%ff", "printable UTF-8"),
        ("pkcs11:token=t;object=%00", "printable UTF-8"),
        ("pkcs11:token=t;object=k;type=private", "type=secret-key"),
        ("pkcs11:token=t;object=k?module-path=lib.so", "absolute path"),
        ("pkcs11:token=t;object=k?module-name=softhsm2", "got module-name"),
        ("pkcs11:token=t;object=k?pin-source=%7Ccat%20/pin", "a command is never run"),
        ("pkcs11:token=t;object=k?pin-source=|cat", "a command is never run"),
        ("pkcs11:token=t;object=k?pin-source=https://pins.example/1", "absolute path"),
        ("pkcs11:token=t;object=k?pin-source=file://host/pin", "absolute path"),
        ("pkcs11:token=t;object=k#x", "object has a value"),
        ("pkcs11:token=t;object=" + "k" * 2048, "at most 2048"),
        ("pkcs12:token=t;object=k", "begins with pkcs11:"),
    ],
)
def test_address_that_is_none_is_refused_with_what_was_expected(uri, message):
    with pytest.raises(CustodyError, match=f"not the address of a key in a PKCS#11 token: .*{re.escape(message)}"):
        TokenKey.parse(uri)


def test_file_is_named_by_its_path_or_its_own_address():
    for written in ("/run/pin", "file:/run/pin", "file:///run/pin"):
        assert TokenKey.parse(f"pkcs11:serial=7;id=%01?pin-source={written}").pin_source == Path("/run/pin")
