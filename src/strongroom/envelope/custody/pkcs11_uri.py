"""Read the address of a key in a PKCS#11 token (RFC 7512, spec/1-encrypted-dataset.md §8.3).

``pkcs11:token=owners;object=claims?module-path=/usr/lib/softhsm/libsofthsm2.so``. Such an address stands in a signed
manifest that others read, so a PIN in it is refused, and no error repeats a value from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote_to_bytes

from strongroom.envelope.custody.failure import CustodyError

EXAMPLE = "pkcs11:token=NAME;object=KEY?module-path=/usr/lib/softhsm/libsofthsm2.so"
MAX_URI_CHARACTERS = 2048  # what a manifest holds
_TOKEN = ("token", "serial", "model", "manufacturer")
_KEY = ("object", "id", "type")
_QUERY = ("module-path", "pin-source")
_PLAIN = r"A-Za-z0-9._~:\[\]@!$'()*+,=\-"  # RFC 7512 §2.3; & is plain only before the ?, and / ? | only after it
_PATH_VALUE = re.compile(rf"(?:[{_PLAIN}&]|%[0-9A-Fa-f]{{2}})+")
_QUERY_VALUE = re.compile(rf"(?:[{_PLAIN}/?|]|%[0-9A-Fa-f]{{2}})+")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """Which key, in which token, behind which module; "" and b"" where nothing is asked, and all that is must fit.

    ``module`` and ``pin_source`` are files on the owner's machine, None where the environment names the module and a
    person or program the PIN.
    """

    token: str = ""
    serial: str = ""
    model: str = ""
    manufacturer: str = ""
    object: str = ""
    id: bytes = b""
    module: Path | None = None
    pin_source: Path | None = None

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Return what ``uri`` names; raise CustodyError unless it names a token and a key, and holds no PIN."""
        scheme, _, rest = uri.partition(":")
        if scheme.lower() != "pkcs11":
            raise _malformed("it begins with pkcs11:")
        path, _, query = rest.partition("?")
        named = _attributes(path.split(";") if path else (), _PATH_VALUE, known=(*_TOKEN, *_KEY), where="before the ?")
        asked = _attributes(query.split("&") if query else (), _QUERY_VALUE, known=_QUERY, where="after the ?")
        if not {"token", "serial"} & named.keys() or not {"object", "id"} & named.keys():
            raise _malformed("it names a token (token or serial) and a key (object or id)")
        if named.get("type", b"secret-key") != b"secret-key":
            raise _malformed("a master key has type=secret-key")
        key = cls(
            token=_text("token", named),
            serial=_text("serial", named),
            model=_text("model", named),
            manufacturer=_text("manufacturer", named),
            object=_text("object", named),
            id=named.get("id", b""),
            module=_file("module-path", asked),
            pin_source=_file("pin-source", asked),
        )
        if max(len(uri), len(str(key))) > MAX_URI_CHARACTERS:
            raise _malformed(f"it has at most {MAX_URI_CHARACTERS} characters")
        return key

    def __str__(self) -> str:
        """Return the address in the one form that this module writes; it parses to the same."""
        named = {name: getattr(self, name) for name in (*_TOKEN, "object", "id")}
        path = ";".join(f"{name}={quote(value, safe='')}" for name, value in named.items() if value)
        asked = {"module-path": self.module, "pin-source": self.pin_source}
        query = "&".join(f"{name}={quote(str(file), safe='/')}" for name, file in asked.items() if file)
        return f"pkcs11:{path}" + (f"?{query}" if query else "")

    @property
    def token_name(self) -> str:
        """Return what to call the token in a sentence."""
        return self.token or f"with the serial number {self.serial}"

    @property
    def key_name(self) -> str:
        """Return what to call the key in a sentence."""
        return self.object or f"with the id {self.id.hex()}"


def _attributes(parts: Sequence[str], form: re.Pattern[str], *, known: Sequence[str], where: str) -> dict[str, bytes]:
    """Return the attributes of one half of an address, decoded; no value reaches an error, for it may be a PIN."""
    found: dict[str, bytes] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name.lower() in {"pin-value", "pin"}:
            raise CustodyError(
                "a PIN must not stand in the address of a key: that is signed into the manifest, which others read",
                hint="leave it out and be asked for it, or name a file that only you can read: pin-source=/path; "
                "if that PIN was real, change it",
            )
        if name not in known:
            called = name if _NAME.fullmatch(name) else "something else"
            raise _malformed(f"{where} it may have {', '.join(known)}, got {called}")
        if name in found:
            raise _malformed(f"it names {name} once")
        if not form.fullmatch(value):
            raise _malformed(f"{name} has a value, with all but letters, digits and some signs as %XX")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, found: dict[str, bytes]) -> str:
    try:
        text = found.get(name, b"").decode()
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable() or text != text.strip():
        raise _malformed(f"{name} is printable UTF-8 without spaces around it")
    return text


def _file(name: str, found: dict[str, bytes]) -> Path | None:
    if name not in found:
        return None
    text = _text(name, found)
    if text.startswith("|"):
        raise _malformed(f"{name} is a file; a command is never run")
    if text.startswith("file:"):
        text = text.removeprefix("file:")
        text = text[2:] if text.startswith("///") else "" if text.startswith("//") else text  # no other host's file
    if not text.startswith("/"):
        raise _malformed(f"{name} is an absolute path on this machine")
    return Path(text)


def _malformed(expected: str) -> CustodyError:
    return CustodyError(f"not the address of a key in a PKCS#11 token: {expected}", hint=f"write {EXAMPLE}")
