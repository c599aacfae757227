"""A master key in a real PKCS#11 token: made there, never leaving, bound to its context, gone when it is gone."""

from __future__ import annotations

import base64
import fcntl
import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import pkcs11
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass, TokenFlag

from strongroom.digests import frame
from strongroom.envelope.custody import CustodyError, create_custody, open_custody
from strongroom.envelope.custody.failure import AbsentKeyError, CustodyUnavailableError, WrongPasswordError
from strongroom.envelope.custody.pkcs11 import Pkcs11Custody
from strongroom.envelope.custody.pkcs11_token import how_close, parse_pin, read_pin, refuse_last_try
from strongroom.envelope.keys import DataKey
from strongroom.envelope.manifest import rewrap, unwrap_data_key
from strongroom.envelope.table import encrypt_table

pytestmark = pytest.mark.softhsm
PIN = b"vault-4711"
FIT = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}


def pin():
    return PIN


def no_pin():
    raise AssertionError("nobody may be asked for a PIN here")


@pytest.fixture(scope="module")
def custody(softhsm):
    return create_custody(softhsm.uri("claims"), password=pin)


@pytest.fixture(scope="module")
def other(softhsm):
    return create_custody(softhsm.uri("others"), password=pin)


@pytest.fixture
def make(custody):
    """Make a key in the token as its administrator could, with any attributes."""
    session = custody._token.open(rw=True)

    def generate(name, *, bits=256, capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT, store=True, **more):
        template = {**FIT, **{Attribute[attribute.upper()]: value for attribute, value in more.items()}}
        return session.generate_key(
            KeyType.AES, bits, label=name, store=store, capabilities=capabilities, template=template
        )

    yield generate
    session.close()


def test_key_wrapped_by_the_token_opens_again(custody):
    key = DataKey.generate()
    wrapped = custody.wrap(key, context=b"flights@1")
    assert wrapped.startswith("pkcs11:v1:")
    assert open_custody(custody.uri, password=pin).unwrap(wrapped, context=b"flights@1") == key


def test_made_key_can_never_leave(custody):
    key = custody._find_key()
    assert (key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE], key[Attribute.PRIVATE]) == (True, False, True)
    assert (key[Attribute.ALWAYS_SENSITIVE], key[Attribute.NEVER_EXTRACTABLE]) == (True, True)
    assert not any(key[one] for one in (Attribute.WRAP, Attribute.UNWRAP, Attribute.SIGN, Attribute.DERIVE))
    with pytest.raises(pkcs11.AttributeSensitive):
        key[Attribute.VALUE]


def test_wrapped_form_is_what_the_specification_says(softhsm, custody, make):
    """AES-256-GCM done by another library opens it: only for a key that somebody knows and put into the token."""
    secret = os.urandom(32)
    session = custody._token.open(rw=True)
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.LABEL: "imported",
            Attribute.VALUE: secret,
            Attribute.TOKEN: True,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
            **FIT,
        }
    )
    session.close()
    imported = open_custody(softhsm.uri("imported"), password=pin)
    raw = base64.b64decode(imported.wrap(DataKey(bytes(range(32))), context=b"c").removeprefix("pkcs11:v1:"))
    aad = frame(b"strongroom/pkcs11-custody/v1", b"c")
    assert AESGCM(secret).decrypt(raw[:12], raw[12:], aad) == bytes(range(32))
    ours = b"n" * 12 + AESGCM(secret).encrypt(b"n" * 12, bytes(32), aad)
    assert imported.unwrap("pkcs11:v1:" + base64.b64encode(ours).decode(), context=b"c") == DataKey(bytes(32))


@settings(max_examples=60)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_wrapped_key_is_bound_to_its_context(custody, context, another):
    wrapped = custody.wrap(DataKey(bytes(32)), context=context)
    assert custody.unwrap(wrapped, context=context) == DataKey(bytes(32))
    if another != context:
        with pytest.raises(CustodyError, match="does not open this data key"):
            custody.unwrap(wrapped, context=another)


@settings(max_examples=100)
@given(st.integers(0, 60 * 8 - 1))
def test_wrapped_key_with_one_bit_changed_does_not_open(custody, bit):
    raw = bytearray(base64.b64decode(custody.wrap(DataKey(bytes(32)), context=b"c").removeprefix("pkcs11:v1:")))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CustodyError, match="does not open this data key"):
        custody.unwrap("pkcs11:v1:" + base64.b64encode(raw).decode(), context=b"c")


def test_wrapped_key_is_bound_to_its_master_key(custody, other):
    with pytest.raises(CustodyError, match="does not open this data key"):
        other.unwrap(custody.wrap(DataKey.generate(), context=b"c"), context=b"c")


@settings(max_examples=100)
@given(st.text(max_size=100) | st.binary(max_size=80).map(lambda raw: "pkcs11:v1:" + base64.b64encode(raw).decode()))
def test_any_other_text_is_refused(custody, wrapped):
    with pytest.raises(CustodyError):
        custody.unwrap(wrapped, context=b"c")


def test_same_key_never_wraps_to_the_same_text(custody):
    assert len({custody.wrap(DataKey(bytes(32)), context=b"c") for _ in range(50)}) == 50


def test_pin_is_asked_for_once_in_a_process(softhsm, custody, other):
    """A login is the process's, so a second custody of the token needs none."""
    again = open_custody(custody.uri, password=no_pin)
    assert again.unwrap(custody.wrap(DataKey(bytes(32)), context=b"c"), context=b"c") == DataKey(bytes(32))


def test_dataset_moves_from_a_file_into_the_token_and_on_to_another_key(tmp_path, custody, other, owner):
    at_home = create_custody(f"file:{tmp_path}/master.key", password=lambda: b"long password")
    (tmp_path / "in.csv").write_text("id\n1\n")
    first = encrypt_table(tmp_path / "in.csv", tmp_path / "out", dataset="d", version=1, owner=owner, custody=at_home)
    dek = unwrap_data_key(first, custody=at_home)
    second = rewrap(first, old=at_home, new=custody, owner=owner)
    third = rewrap(second, old=custody, new=other, owner=owner)
    assert (second.custody, third.custody, third.revision) == (custody.uri, other.uri, 3)
    assert unwrap_data_key(third, custody=other) == dek
    with pytest.raises(CustodyError):
        unwrap_data_key(third, custody=custody)


def test_existing_key_is_never_made_again(softhsm, custody):
    with pytest.raises(CustodyError, match="exists already"):
        create_custody(custody.uri, password=pin)
    with pytest.raises(CustodyError, match="needs a name"):
        create_custody(f"pkcs11:token=owners;id=%01?module-path={softhsm.module}", password=pin)


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("readable", {"sensitive": False}, "sensitive is no, expected yes"),
        ("leaving", {"extractable": True}, "extractable is yes, expected no"),
        ("open", {"private": False}, "private is no, expected yes"),
        ("short", {"bits": 128}, "length is 16, expected 32"),
        ("one-way", {"capabilities": MechanismFlag.ENCRYPT}, "may decrypt is no, expected yes"),
        ("fleeting", {"store": False}, "kept in the token is no, expected yes"),
    ],
)
def test_key_that_could_leave_or_cannot_wrap_is_refused(softhsm, make, name, attributes, message):
    made = make(name, **attributes)  # a fleeting one lives as long as this session
    with pytest.raises(CustodyError, match=f"cannot be a master key: {message}"):
        open_custody(softhsm.uri(name), password=pin)
    assert made.label == name


def test_key_that_is_not_there_is_named(softhsm, custody):
    with pytest.raises(AbsentKeyError, match=r"has no secret key claim$") as refused:
        open_custody(softhsm.uri("claim"), password=pin)
    assert "custody create" in refused.value.hint


def test_two_keys_of_one_name_are_told_apart_by_their_id(softhsm, make):
    make("double", id=b"\x01\x02")
    make("double", id=b"/?")
    with pytest.raises(CustodyError, match="has 2 secret keys double") as refused:
        open_custody(softhsm.uri("double"), password=pin)
    assert refused.value.hint == "say which one: add id=, one of %01%02, %2F%3F"
    first, second = (open_custody(softhsm.uri(f"double;id={one}"), password=pin) for one in ("%01%02", "%2F%3F"))
    with pytest.raises(CustodyError):
        second.unwrap(first.wrap(DataKey.generate(), context=b"c"), context=b"c")


def test_two_tokens_of_one_name_are_told_apart_by_their_serial_number(softhsm):
    with pytest.raises(CustodyError, match="2 tokens fit twin") as refused:
        open_custody(softhsm.uri(token="twin"), password=no_pin)
    assert all(serial in refused.value.hint for serial in softhsm.twins)
    made = create_custody(softhsm.uri(token=f"twin;serial={softhsm.twins[0]}"), password=pin)
    with pytest.raises(AbsentKeyError, match="has no secret key"):
        open_custody(softhsm.uri(token=f"twin;serial={softhsm.twins[1]}"), password=pin)
    assert softhsm.twins[0] in made.uri


def test_token_that_is_not_there_is_named_and_no_pin_is_asked_for(softhsm):
    with pytest.raises(AbsentKeyError, match=r"no token nobodys behind .*; there are: .*owners") as refused:
        open_custody(softhsm.uri(token="nobodys"), password=no_pin)
    assert "SOFTHSM2_CONF" in refused.value.hint
    with pytest.raises(AbsentKeyError):
        open_custody(softhsm.uri(token="owners;model=YubiHSM"), password=no_pin)


def test_address_as_other_tools_list_it_is_taken(softhsm, custody):
    """What GnuTLS' p11tool prints, but for the module."""
    listed = f"model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial={softhsm.serials['owners']};token=owners"
    uri = f"pkcs11:{listed};object=claims;type=secret-key?module-path={softhsm.module}"
    assert open_custody(uri, password=pin).unwrap(custody.wrap(DataKey(bytes(32)), context=b""), context=b"")


def test_wrong_pin_is_tried_once_and_the_danger_named(softhsm):
    tried = []

    def wrong():
        tried.append(True)
        return b"guess-0815"

    with pytest.raises(WrongPasswordError, match="the token guarded refuses the PIN; it counts") as refused:
        open_custody(softhsm.uri(token="guarded"), password=wrong)
    assert len(tried) == 1
    assert "locks after a few" in refused.value.hint
    assert "guess" not in str(refused.value) + refused.value.hint


def test_pin_may_come_from_a_file(softhsm, tmp_path):
    file = tmp_path / "the pin"
    file.write_bytes(PIN + b"\r\nnot this\n")
    file.chmod(0o600)
    uri = softhsm.uri(token="others", more=f"&pin-source=file:{str(file).replace(' ', '%20')}")
    custody = create_custody(uri, password=no_pin)
    assert custody.uri.endswith("/the%20pin")
    assert open_custody(custody.uri, password=no_pin).wrap(DataKey.generate(), context=b"c")


def test_pin_file_that_others_can_read_or_that_is_none_is_refused(tmp_path):
    file = tmp_path / "pin"
    with pytest.raises(CustodyError, match="cannot read the PIN"):
        read_pin(file)
    for content, mode, message in (
        (PIN, 0o604, "open to everybody"),
        (b"", 0o600, "1 to 255 bytes"),
        (b"\nsecond", 0o600, "1 to 255 bytes"),
        (b"x" * 5000, 0o600, "not a file with a PIN"),
        (b"x" * 300, 0o600, "1 to 255 bytes"),
    ):
        file.write_bytes(content)
        file.chmod(mode)
        with pytest.raises(CustodyError, match=message):
            read_pin(file)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(CustodyError, match="not a file with a PIN"):
        read_pin(file)


@pytest.mark.parametrize("bad", [b"", b"a\0b", b"\xff\xfe", b"x" * 256])
def test_what_cannot_be_a_pin_is_not_tried(bad):
    with pytest.raises(CustodyError, match="it was not tried"):
        parse_pin(bad)


def test_last_try_is_not_left_to_a_file():
    with pytest.raises(CustodyError, match="one more wrong PIN locks the token t"):
        refuse_last_try(TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_COUNT_LOW, name="t")
    refuse_last_try(TokenFlag.USER_PIN_COUNT_LOW, name="t")
    assert how_close(TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY) == "; it is locked now"
    assert how_close(TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_COUNT_LOW) == "; one more wrong PIN locks it"
    assert how_close(TokenFlag.LOGIN_REQUIRED) == ""


def test_file_that_is_no_module_is_refused(softhsm, tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    for path in (tmp_path / "text.so", pkcs11._pkcs11.__file__):
        with pytest.raises(CustodyError, match="cannot be used as a PKCS#11 module"):
            open_custody(f"pkcs11:token=owners;object=k?module-path={path}", password=no_pin)
    for path, message in (
        (tmp_path / "absent.so", "there is no PKCS#11 module"),
        (tmp_path, "is not a PKCS#11 module"),
    ):
        with pytest.raises(CustodyError, match=message):
            open_custody(f"pkcs11:token=owners;object=k?module-path={path}", password=no_pin)


def test_module_that_everybody_could_have_written_is_not_loaded(softhsm, tmp_path):
    shutil.copy(softhsm.module, tmp_path / "module.so")
    (tmp_path / "module.so").chmod(0o666)
    with pytest.raises(CustodyError, match="everybody may write"):
        open_custody(f"pkcs11:token=owners;object=k?module-path={tmp_path}/module.so", password=no_pin)


def test_module_may_come_from_the_environment(softhsm, custody, monkeypatch):
    monkeypatch.delenv("PKCS11_MODULE_PATH", raising=False)
    with pytest.raises(CustodyError, match="no PKCS#11 module is named"):
        open_custody("pkcs11:token=owners;object=claims", password=no_pin)
    monkeypatch.setenv("PKCS11_MODULE_PATH", str(softhsm.module))
    short = open_custody("pkcs11:token=owners;object=claims", password=pin)
    assert short.uri == "pkcs11:token=owners;object=claims"


def test_missing_library_is_said_with_what_to_install(softhsm, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pkcs11" or ".custody.pkcs11" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(CustodyError, match="needs the library python-pkcs11") as refused:
        open_custody(softhsm.uri(), password=no_pin)
    assert "hsm" in refused.value.hint


def test_token_that_is_gone_is_said_so_and_hides_no_other(softhsm):
    custody = create_custody(softhsm.uri(token="pulled"), password=pin)
    wrapped = custody.wrap(DataKey.generate(), context=b"c")
    shutil.rmtree(softhsm.files("pulled"))
    with pytest.raises(CustodyError, match="the token pulled"):
        custody.unwrap(wrapped, context=b"c")
    assert create_custody(softhsm.uri("unharmed", token="others"), password=pin).wrap(DataKey.generate(), context=b"c")


def test_token_that_hangs_ends_at_the_deadline(softhsm):
    """SoftHSM waits for a lock on its files for ever; the process that waits is one of its own, for it stays hung."""
    program = f"""
        import time
        from strongroom.envelope.custody.pkcs11 import Pkcs11Custody
        for _ in range(2):
            started = time.monotonic()
            try:
                Pkcs11Custody.open({softhsm.uri(token="guarded")!r}, password=lambda: {PIN!r}, deadline=1.0)
            except Exception as error:
                print(type(error).__name__, "|", error.message, "|", time.monotonic() - started < 10)
    """
    files = [path.open("r+b") for path in softhsm.files("guarded").glob("generation")]
    for file in files:
        fcntl.lockf(file, fcntl.LOCK_EX)
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True, text=True, timeout=60, check=True, env=softhsm.environment,
        )  # fmt: skip
    finally:
        for file in files:
            file.close()
    first, second = done.stdout.splitlines()
    assert first.startswith("CustodyUnavailableError | the token did not answer within 1 seconds (")
    assert second.startswith("CustodyUnavailableError | ")
    assert "has not come back from" in second
    assert first.endswith("True")


def test_token_that_cannot_do_what_is_needed_is_refused_before_it_gets_a_pin(softhsm, tmp_path):
    settings = tmp_path / "softhsm2.conf"
    settings.write_text(softhsm.settings.read_text() + "slots.mechanisms = CKM_AES_KEY_GEN\n")
    program = f"""
        from strongroom.envelope.custody import CustodyError, create_custody
        try:
            create_custody({softhsm.uri(token="guarded")!r}, password=lambda: 1 / 0)
        except CustodyError as error:
            print(error.message)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60, check=True,
        env=softhsm.environment | {"SOFTHSM2_CONF": str(settings)},
    )  # fmt: skip
    assert done.stdout == "the token guarded does not do CKM_AES_GCM\n"


def test_token_that_takes_a_nonce_of_its_own_wraps_nothing(custody, monkeypatch):
    """Some HSMs ignore the nonce they are given: what they seal would never open again."""
    from strongroom.envelope.custody import pkcs11 as module

    genuine, calls = module._gcm, []

    def stubborn(nonce, context):
        calls.append(nonce)
        return genuine(os.urandom(12) if len(calls) == 1 else nonce, context)

    monkeypatch.setattr(module, "_gcm", stubborn)
    with pytest.raises(CustodyError, match="does not open what it has just wrapped"):
        custody.wrap(DataKey.generate(), context=b"c")


def test_custody_does_not_print_or_pickle_its_session(custody):
    assert repr(custody) == f"Pkcs11Custody(uri={custody.uri!r})"
    with pytest.raises(TypeError):
        pickle.dumps(custody)
    assert isinstance(custody, Pkcs11Custody)
    assert CustodyUnavailableError.__mro__[1] is CustodyError
