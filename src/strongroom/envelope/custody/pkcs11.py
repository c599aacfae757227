"""Keep a master key in a PKCS#11 token: an HSM, a smart card, SoftHSM (spec/1-encrypted-dataset.md §8.3).

The key is AES-256 and can never leave: a token that says otherwise is refused. A data key is wrapped by AES-256-GCM
inside the token, with the context as associated data, and opened again before anybody relies on it.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.mechanisms import GCMParams

from strongroom.digests import frame
from strongroom.envelope.custody.failure import AbsentKeyError, CustodyError, CustodyUnavailableError
from strongroom.envelope.custody.pkcs11_module import Module, load_module, said
from strongroom.envelope.custody.pkcs11_token import find_token, log_in
from strongroom.envelope.custody.pkcs11_uri import TokenKey
from strongroom.envelope.keys import KEY_BYTES, DataKey, reveal

if TYPE_CHECKING:
    from pkcs11 import SecretKey, Session, Token

DEADLINE_SECONDS = 15.0
_PREFIX = "pkcs11:v1:"
_NONCE, _TAG = 12, 16
_REQUIRED: Final = {
    Attribute.KEY_TYPE: ("type", KeyType.AES),
    Attribute.VALUE_LEN: ("length", KEY_BYTES),
    Attribute.TOKEN: ("kept in the token", True),
    Attribute.PRIVATE: ("private", True),
    Attribute.SENSITIVE: ("sensitive", True),
    Attribute.EXTRACTABLE: ("extractable", False),
    Attribute.ENCRYPT: ("may encrypt", True),
    Attribute.DECRYPT: ("may decrypt", True),
}
_DOES_NOT_OPEN: Final = (
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.SignatureInvalid,
    pkcs11.DataInvalid,
    pkcs11.FunctionFailed,
    pkcs11.GeneralError,  # SoftHSM's word for a tag that does not fit
)
_GONE: Final = (
    pkcs11.DeviceError,
    pkcs11.DeviceRemoved,
    pkcs11.SessionClosed,
    pkcs11.SessionHandleInvalid,
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
    pkcs11.UserNotLoggedIn,
)


class Pkcs11Custody:
    """A master key that never leaves its token; data keys go there to be wrapped, and nothing else of the key comes."""

    __slots__ = ("_deadline", "_key", "_module", "_session", "_token", "uri")

    def __init__(self, key: TokenKey, *, password: Callable[[], bytes], deadline: float) -> None:
        self.uri = str(key)
        self._key = key
        self._deadline = deadline
        self._module: Module = load_module(key.module)
        self._token: Token = find_token(self._module, key, deadline=deadline)
        self._check_mechanisms()  # before a PIN is spent on a token that is no use
        self._session: Session = log_in(self._module, self._token, key, password=password, deadline=deadline)

    @classmethod
    def open(cls, uri: str, *, password: Callable[[], bytes], deadline: float = DEADLINE_SECONDS) -> Self:
        """Return the custody of an existing key after checking that it is fit to be a master key.

        ``password`` returns the user PIN; it is called at most once, and not at all if the address names a
        ``pin-source`` or this process is logged in to the token already. No call takes longer than ``deadline``.
        """
        custody = cls(TokenKey.parse(uri), password=password, deadline=deadline)
        custody._find_key()
        return custody

    @classmethod
    def create(cls, uri: str, *, password: Callable[[], bytes], deadline: float = DEADLINE_SECONDS) -> Self:
        """Make a new key inside the token (AES-256, sensitive, not extractable) and return its custody."""
        key = TokenKey.parse(uri)
        if not key.object:
            raise CustodyError("a new key needs a name", hint="add object=NAME to the address")
        custody = cls(key, password=password, deadline=deadline)
        if custody._call("looking for the key", custody._fitting):
            raise CustodyError(f"{custody.uri} exists already", hint="a master key is never overwritten; name another")
        custody._call("making a key", custody._generate)
        custody._find_key()
        return custody

    def wrap(self, key: DataKey, *, context: bytes) -> str:
        """Return ``key`` wrapped inside the token and bound to ``context``."""
        master, nonce, plain = self._find_key(), os.urandom(_NONCE), reveal(key)
        sealed = self._call("wrapping", lambda: master.encrypt(plain, **_gcm(nonce, context)))
        wrapped = _PREFIX + base64.b64encode(nonce + sealed).decode()
        try:
            opened = self.unwrap(wrapped, context=context) == key
        except CustodyUnavailableError:
            raise
        except CustodyError:
            opened = False
        if not opened:
            raise CustodyError(
                f"the token {self._key.token_name} does not open what it has just wrapped, so nothing was kept",
                hint="it does not do AES-GCM with the nonce it is given; take another token or custody",
            )
        return wrapped

    def unwrap(self, wrapped: str, *, context: bytes) -> DataKey:
        """Return the key wrapped with the same ``context``; raise CustodyError otherwise."""
        if not wrapped.startswith(_PREFIX):
            raise CustodyError(
                f"a key wrapped by a token starts with {_PREFIX}, got {wrapped[:12]!r}",
                hint="open the custody that the manifest names",
            )
        text = wrapped.removeprefix(_PREFIX)
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _NONCE + KEY_BYTES + _TAG or base64.b64encode(raw).decode() != text:
            raise CustodyError("a key wrapped by a token has another form", hint="the manifest was damaged")
        master = self._find_key()
        try:
            plain = self._call(
                "unwrapping",
                lambda: master.decrypt(raw[_NONCE:], **_gcm(raw[:_NONCE], context)),
                telling=_DOES_NOT_OPEN,
            )
        except _DOES_NOT_OPEN as error:
            raise CustodyError(
                f"the master key at {self.uri} does not open this data key",
                hint="it was wrapped by another master key, for another dataset or version, or was changed",
            ) from error
        if len(plain) != KEY_BYTES:
            raise CustodyError(f"{self.uri} returned something that is not a data key")
        return DataKey(plain)

    def _check_mechanisms(self) -> None:
        """Raise CustodyError unless the token says that it makes AES keys and does AES-GCM."""
        able = self._call("asking what it does", self._token.slot.get_mechanisms)
        missing = [one.name for one in (Mechanism.AES_KEY_GEN, Mechanism.AES_GCM) if one not in able]
        if missing:
            raise CustodyError(
                f"the token {self._key.token_name} does not do {' and '.join(f'CKM_{name}' for name in missing)}",
                hint="take a token that does, or another custody",
            )

    def _find_key(self) -> SecretKey:
        """Return the one key that the address names; raise CustodyError unless it can wrap, and can never leave."""
        found = self._call("looking for the key", self._fitting)
        if not found:
            raise AbsentKeyError(
                f"the token {self._key.token_name} has no secret key {self._key.key_name}",
                hint="make one: strongroom custody create 'pkcs11:...'; or correct the address",
            )
        if len(found) > 1:
            ids = sorted(quoted for quoted, _ in found)
            raise CustodyError(
                f"the token {self._key.token_name} has {len(found)} secret keys {self._key.key_name}",
                hint=f"say which one: add id=, one of {', '.join(ids)}",
            )
        master = found[0][1]
        facts = self._call("looking at the key", lambda: {kind: _fact(master, kind) for kind in _REQUIRED})
        wrong = [
            f"{name} is {_word(facts[kind])}, expected {_word(expected)}"
            for kind, (name, expected) in _REQUIRED.items()
            if facts[kind] != expected
        ]
        if wrong:
            raise CustodyError(
                f"{self.uri} cannot be a master key: {'; '.join(wrong)}",
                hint="make another: strongroom custody create 'pkcs11:...'",
            )
        return master

    def _fitting(self) -> list[tuple[str, SecretKey]]:
        """Return the keys that the address names with their ids, as an address writes them."""
        template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY}
        if self._key.object:
            template[Attribute.LABEL] = self._key.object
        if self._key.id:
            template[Attribute.ID] = self._key.id
        keys = list(self._session.get_objects(template))
        return [("".join(f"%{byte:02X}" for byte in _fact(key, Attribute.ID) or b"") or "(none)", key) for key in keys]

    def _generate(self) -> None:
        """Make the key, in a session that may write; the process's login holds for it too."""
        writing = self._token.open(rw=True)
        try:
            writing.generate_key(
                KeyType.AES,
                KEY_BYTES * 8,
                label=self._key.object,
                id=self._key.id or os.urandom(8),
                store=True,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
        finally:
            writing.close()

    def _call(self, doing: str, function: Callable[[], Any], *, telling: tuple[type[Exception], ...] = ()) -> Any:  # noqa: ANN401
        """Return what ``function`` returns; what a token refuses becomes a sentence, but for errors in ``telling``."""
        name = self._key.token_name
        try:
            return self._module.call(doing, function, deadline=self._deadline)
        except telling:
            raise
        except _GONE as error:
            self._module.sessions.clear()  # whoever connects it again has to log in again
            raise CustodyUnavailableError(
                f"the token {name} was removed, or has ended the session: {said(error)}",
                hint="connect it, then run this again",
            ) from error
        except (pkcs11.MechanismInvalid, pkcs11.MechanismParamInvalid, pkcs11.FunctionNotSupported) as error:
            raise CustodyError(
                f"the token {name} does not do AES-256-GCM, or not with this key: {said(error)}",
                hint="take a token that does CKM_AES_KEY_GEN and CKM_AES_GCM, or another custody",
            ) from error
        except pkcs11.PKCS11Error as error:
            raise CustodyError(f"the token {name} failed at {doing}: {said(error)}", hint="see its own log") from error

    def __repr__(self) -> str:
        return f"Pkcs11Custody(uri={self.uri!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("custody cannot be pickled or copied")


def _gcm(nonce: bytes, context: bytes) -> dict[str, Any]:
    aad = frame(b"strongroom/pkcs11-custody/v1", context)
    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(nonce, aad, _TAG * 8)}


def _fact(key: SecretKey, kind: Attribute) -> Any:  # noqa: ANN401  whatever kind of attribute
    """Return what the token says of a key; None where it says nothing, which is never what is required."""
    try:
        return key[kind]
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, NotImplementedError):
        return None


def _word(fact: object) -> str:
    if fact is None:
        return "unknown"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return str(getattr(fact, "name", fact))
