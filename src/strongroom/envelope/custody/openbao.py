"""Keep a master key in OpenBao or Vault, in the transit engine (spec/1-encrypted-dataset.md §8.2).

TLS always, verified against a named CA or the system's; the token is read from a file at each call, so it may be
renewed beside us. The context is the engine's associated data. Every call has a deadline; only failures that may pass
are retried, and nothing is ever sent to a server that does not prove its name.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import hvac
import hvac.exceptions
import requests
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from strongroom.digests import frame
from strongroom.envelope.custody.failure import AbsentKeyError, CustodyError, CustodyUnavailableError
from strongroom.envelope.keys import DataKey, InvalidKeyError, reveal

DEADLINE_SECONDS = 15.0
_CONNECT_SECONDS, _READ_SECONDS = 3.0, 5.0
_ATTEMPTS = 5
_KEY_TYPE = "aes256-gcm96"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_TOKEN_BYTES = 4096
_PASSING = (
    requests.ConnectionError,
    requests.Timeout,
    hvac.exceptions.InternalServerError,
    hvac.exceptions.BadGateway,
    hvac.exceptions.VaultDown,
    hvac.exceptions.RateLimitExceeded,
)


class OpenBaoCustody:
    """A master key that never leaves OpenBao or Vault; only data keys go there, over TLS, to be wrapped."""

    __slots__ = ("_address", "_ca", "_deadline", "_key", "_mount", "_session", "_token_file", "uri")

    def __init__(self, uri: str, *, deadline: float = DEADLINE_SECONDS) -> None:
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        *mount, key = [part for part in parts.path.split("/") if part] or [""]
        named = parts.hostname and mount and all(_NAME.fullmatch(part) for part in (*mount, key))
        if not named or parts.username or parts.password or parts.fragment or set(options) - {"ca", "token_file"}:
            raise CustodyError(
                f"not the address of a transit key: {parts.scheme}://{parts.hostname or ''}{parts.path[:80]}",
                hint="write openbao://host:port/mount/key?ca=/ca.pem&token_file=/token; no token and no other option",
            )
        token_file = options.get("token_file") or os.environ.get("VAULT_TOKEN_FILE")
        if not token_file:
            raise CustodyError(
                "no token file is named for the key service",
                hint="add token_file=/path to the address or set VAULT_TOKEN_FILE; a token itself is never accepted",
            )
        self.uri = f"openbao://{parts.netloc}/{'/'.join((*mount, key))}"
        if options:
            self.uri += "?" + urlencode(sorted(options.items()), quote_via=quote, safe="/")
        self._address = f"https://{parts.netloc}"
        self._mount, self._key = "/".join(mount), key
        self._token_file = Path(token_file)
        self._ca = options.get("ca") or os.environ.get("VAULT_CACERT")
        self._deadline = deadline
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, no .netrc and no CA bundle of the environment's choosing
        if self._ca and not Path(self._ca).is_file():
            raise CustodyError(f"there is no CA file {self._ca}", hint="name the PEM file that signed the server")
        self._session.verify = self._ca or True  # hvac prefers the session's setting to its own argument

    @classmethod
    def open(cls, uri: str, *, deadline: float = DEADLINE_SECONDS) -> Self:
        """Return the custody of an existing transit key, after checking that it is fit to be a master key."""
        custody = cls(uri, deadline=deadline)
        custody._verify_key()
        return custody

    @classmethod
    def create(cls, uri: str, *, deadline: float = DEADLINE_SECONDS) -> Self:
        """Make a new transit key (AES-256-GCM, not exportable) and return its custody."""
        custody = cls(uri, deadline=deadline)
        if custody._read_key() is not None:
            raise CustodyError(f"{custody.uri} exists already", hint="a master key is never overwritten; name another")
        custody._call(
            lambda transit: transit.create_key(
                custody._key,
                key_type=_KEY_TYPE,
                exportable=False,
                allow_plaintext_backup=False,
                derived=False,
                mount_point=custody._mount,
            )
        )
        custody._verify_key()
        return custody

    def wrap(self, key: DataKey, *, context: bytes) -> str:
        """Return ``key`` wrapped by the service and bound to ``context``."""
        reply = self._call(
            lambda transit: transit.encrypt_data(
                self._key, plaintext=_b64(reveal(key)), associated_data=_aad(context), mount_point=self._mount
            )
        )
        return self._text(reply, "ciphertext")

    def unwrap(self, wrapped: str, *, context: bytes) -> DataKey:
        """Return the key wrapped with the same ``context``; raise CustodyError otherwise."""
        if not wrapped.startswith("vault:v"):
            raise CustodyError(
                f"a key wrapped by transit starts with vault:v, got {wrapped[:12]!r}",
                hint="open the custody that the manifest names",
            )
        reply = self._call(
            lambda transit: transit.decrypt_data(
                self._key, ciphertext=wrapped, associated_data=_aad(context), mount_point=self._mount
            )
        )
        try:
            return DataKey(base64.b64decode(self._text(reply, "plaintext"), validate=True))
        except (binascii.Error, ValueError, InvalidKeyError) as error:
            raise CustodyError(f"{self.uri} returned something that is not a data key") from error

    def rotate(self) -> int:
        """Make a new version of the master key for later wraps and return its number; older wraps still open."""
        self._call(lambda transit: transit.rotate_key(self._key, mount_point=self._mount))
        return self._verify_key()

    def _verify_key(self) -> int:
        """Return the key's latest version; raise CustodyError unless it can only wrap and never leave."""
        facts = self._read_key()
        if facts is None:
            raise AbsentKeyError(
                f"there is no key {self.uri}", hint="make one: strongroom custody create, or the transit engine"
            )
        wrong = [
            f"{name} is {facts.get(name)!r}, expected {expected!r}"
            for name, expected in {
                "type": _KEY_TYPE,
                "derived": False,
                "exportable": False,
                "allow_plaintext_backup": False,
            }.items()
            if facts.get(name) != expected
        ]
        if wrong:
            raise CustodyError(f"{self.uri} cannot be a master key: {'; '.join(wrong)}", hint="create another key")
        return int(facts["latest_version"])

    def _read_key(self) -> dict[str, Any] | None:
        try:
            reply = self._call(lambda transit: transit.read_key(self._key, mount_point=self._mount))
        except AbsentKeyError:
            return None
        data = reply.get("data")
        if not isinstance(data, dict) or "latest_version" not in data:
            raise CustodyError(f"{self._address} does not answer as a transit engine does")
        return data

    def _call(self, request: Callable[[Any], Any]) -> dict[str, Any]:
        """Return the reply to one request, retried until the deadline while failures may pass."""
        client = hvac.Client(
            url=self._address,
            token=self._token(),
            timeout=(min(_CONNECT_SECONDS, self._deadline), min(_READ_SECONDS, self._deadline)),
            session=self._session,
            allow_redirects=False,
        )
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(self._deadline),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        try:
            reply = retrying(request, client.secrets.transit)
        except requests.exceptions.SSLError as error:
            raise CustodyUnavailableError(
                f"{self._address} does not prove its name: {_cause(error)}",
                hint="name the CA that signed it: ca=/path/ca.pem in the address, or VAULT_CACERT",
            ) from None
        except hvac.exceptions.InvalidPath as error:
            raise AbsentKeyError(
                f"{self._address} has no {self._mount}/{self._key}", hint="check mount and key"
            ) from error
        except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as error:
            raise CustodyError(
                f"{self._address} refuses the token in {self._token_file} for {self._mount}/{self._key}",
                hint="renew it; it needs read on keys/, update on encrypt/ and decrypt/ of this key",
            ) from error
        except _PASSING as error:
            raise CustodyUnavailableError(
                f"{self._address} did not answer in time: {type(error).__name__}",
                hint="is it running and unsealed? then try again",
            ) from None
        except (hvac.exceptions.VaultError, requests.RequestException, ValueError) as error:
            raise CustodyError(
                f"{self._address} will not open or wrap with {self._mount}/{self._key}: {_first_line(error)}",
                hint="the key was wrapped by another master key, for another dataset or version, or was changed",
            ) from error
        if not isinstance(reply, dict):
            reply = {"status": getattr(reply, "status_code", None)}
            if reply["status"] not in {200, 204}:
                raise CustodyError(f"{self._address} answered with status {reply['status']}", hint="check the address")
        return reply

    def _token(self) -> str:
        try:
            status = self._token_file.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_TOKEN_BYTES:
                raise CustodyError(f"{self._token_file} is not a token file")
            if status.st_mode & 0o007:
                raise CustodyError(
                    f"{self._token_file} is open to everybody (mode {stat.S_IMODE(status.st_mode):04o})",
                    hint=f"run: chmod 600 {self._token_file}, and renew the token",
                )
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CustodyError(f"cannot read the token file {self._token_file}", hint="check the path") from error
        if not token or not token.isprintable() or " " in token:
            raise CustodyError(f"{self._token_file} does not hold one token")
        return token

    def _text(self, reply: dict[str, Any], name: str) -> str:
        data = reply.get("data")
        value = data.get(name) if isinstance(data, dict) else None
        if not isinstance(value, str):
            raise CustodyError(f"{self._address} does not answer as a transit engine does")
        return value

    def __repr__(self) -> str:
        return f"OpenBaoCustody(uri={self.uri!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("custody cannot be pickled or copied")


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, _PASSING) and not isinstance(error, requests.exceptions.SSLError)


def _aad(context: bytes) -> str:
    return _b64(frame(b"strongroom/openbao-custody/v1", context))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _cause(error: BaseException) -> str:
    found = re.search(r"certificate verify failed: ([^(\]\"']+)", str(error))
    return found[1].strip() if found else "the TLS handshake failed"
