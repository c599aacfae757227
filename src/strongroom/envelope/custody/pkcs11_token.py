"""Find a PKCS#11 token and log in to it, once: a token locks after a few wrong PINs, so none is ever tried twice.

By the standard a login holds for the whole process, so a token has one session here, which all custodies share.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pkcs11
from pkcs11 import TokenFlag

from strongroom.envelope.custody.failure import AbsentKeyError, CustodyError, WrongPasswordError
from strongroom.envelope.custody.pkcs11_module import Module, said

if TYPE_CHECKING:
    from pkcs11 import Session, Token

    from strongroom.envelope.custody.pkcs11_uri import TokenKey

_MAX_PIN_BYTES = 255
_MAX_PIN_FILE_BYTES = 4096
_WRONG: Final = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)
_CLOSED: Final = {
    pkcs11.PinLocked: "its PIN is locked after too many wrong ones",
    pkcs11.PinExpired: "its PIN has expired",
    pkcs11.UserPinNotInitialized: "it has no user PIN yet",
}


def find_token(module: Module, key: TokenKey, *, deadline: float) -> Token:
    """Return the one token that ``key`` names; raise AbsentKeyError if there is none, CustodyError if several fit."""
    wanted = {"label": key.token, "serial": key.serial, "model": key.model, "manufacturer_id": key.manufacturer}
    tokens = module.tokens(deadline=deadline)
    fitting = [token for token in tokens if all(_said(token, name) == text for name, text in wanted.items() if text)]
    if not fitting:
        there = ", ".join(sorted(_said(token, "label") for token in tokens)) or "none"
        raise AbsentKeyError(
            f"there is no token {key.token_name} behind {module.path}; there are: {there}",
            hint="connect it, or correct the address (SoftHSM finds its tokens by the variable SOFTHSM2_CONF)",
        )
    if len(fitting) > 1:
        serials = ", ".join(_said(token, "serial") for token in fitting)
        raise CustodyError(f"{len(fitting)} tokens fit {key.token_name}", hint=f"add serial=, one of {serials}")
    return fitting[0]


def log_in(module: Module, token: Token, key: TokenKey, *, password: Callable[[], bytes], deadline: float) -> Session:
    """Return this process's session with ``token``; a PIN is asked for, and tried, only if there is none yet.

    Raise WrongPasswordError if the token refuses the PIN, CustodyError if it lets nobody in.
    """
    known = (_said(token, "serial"), _said(token, "label"))
    if known in module.sessions:
        return module.sessions[known]
    if key.pin_source is None:
        pin = parse_pin(password())
    else:
        refuse_last_try(token.flags, name=key.token_name)
        pin = read_pin(key.pin_source)
    try:
        session = module.call("logging in", lambda: token.open(user_pin=pin), deadline=deadline)
    except pkcs11.UserAlreadyLoggedIn:  # by other code of this process
        session = module.call("opening a session", token.open, deadline=deadline)
    except _WRONG as error:
        flags = module.call("asking how it stands", token.slot.get_token, deadline=deadline).flags
        raise WrongPasswordError(
            f"the token {key.token_name} refuses the PIN{how_close(flags)}",
            hint="a token locks after a few wrong PINs, so it was tried once and is not tried again; "
            "be sure of it before you run this again",
        ) from error
    except pkcs11.PKCS11Error as error:
        why = next((text for kind, text in _CLOSED.items() if isinstance(error, kind)), said(error))
        raise CustodyError(
            f"the token {key.token_name} lets nobody in: {why}",
            hint="whoever administers it sets a PIN with the vendor's own tool",
        ) from error
    module.sessions[known] = session
    return session


def refuse_last_try(flags: TokenFlag, *, name: str) -> None:
    """Raise CustodyError if one more wrong PIN would lock the token: a file is not to be trusted with that."""
    if TokenFlag.USER_PIN_FINAL_TRY in flags:
        raise CustodyError(
            f"one more wrong PIN locks the token {name}, so the one in the file was not tried",
            hint="log in once with the right PIN by the vendor's own tool; that gives the tries back",
        )


def how_close(flags: TokenFlag) -> str:
    """Return what to add to a refused PIN: whether the token is locked now, or close to it."""
    if TokenFlag.USER_PIN_LOCKED in flags:
        return "; it is locked now"
    if TokenFlag.USER_PIN_FINAL_TRY in flags:
        return "; one more wrong PIN locks it"
    if TokenFlag.USER_PIN_COUNT_LOW in flags:
        return "; it counts wrong PINs, and locks after a few"
    return ""


def read_pin(file: Path) -> str:
    """Return the PIN in the first line of ``file``; raise CustodyError unless its owner and group alone can read it."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_PIN_FILE_BYTES:
            raise CustodyError(f"{file} is not a file with a PIN", hint="write the PIN, and nothing else, into a file")
        if status.st_mode & stat.S_IRWXO:
            raise CustodyError(
                f"the PIN in {file} is open to everybody (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"run: chmod 600 {file}, and change the PIN",
            )
        return parse_pin(file.read_bytes().partition(b"\n")[0].rstrip(b"\r"))
    except OSError as error:
        raise CustodyError(f"cannot read the PIN in {file}: {error.strerror}", hint="check pin-source") from error


def parse_pin(pin: bytes) -> str:
    """Return ``pin`` as the text that it is; raise CustodyError, without repeating it, if it is none."""
    try:
        text = pin.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text or len(pin) > _MAX_PIN_BYTES:
        raise CustodyError(
            f"a PIN is 1 to {_MAX_PIN_BYTES} bytes of UTF-8, got {len(pin)} bytes; it was not tried",
            hint="type it again, or look into its file",
        )
    return text


def _said(token: Token, name: str) -> str:
    """Return a text that a token says of itself, without the padding."""
    value = getattr(token, name)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.rstrip(" \0")
