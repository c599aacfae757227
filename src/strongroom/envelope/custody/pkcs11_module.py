"""Load a PKCS#11 module, and give no call into it more than its deadline.

A token may hang (a network HSM behind a dead line), and a call into its module cannot be ended. So every call runs in a
thread of its own that can be left behind; afterwards the module is not called again in this process.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pkcs11
from pkcs11 import TokenFlag

from strongroom.envelope.custody.failure import CustodyError, CustodyUnavailableError

if TYPE_CHECKING:
    from pkcs11 import Session, Token

_Result = TypeVar("_Result")
_VARIABLE = "PKCS11_MODULE_PATH"  # as OpenSSL's PKCS#11 engine and others read it


class Module:
    """One module, loaded once in this process; ``sessions`` are those with its tokens, by serial number and label."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sessions: dict[tuple[str, str], Session] = {}
        self._turn = threading.Lock()
        self._stuck = ""
        self._library: Any = None

    def call(self, doing: str, function: Callable[[], _Result], *, deadline: float) -> _Result:
        """Return what ``function`` returns, within ``deadline`` seconds; ``doing`` names in an error what hung.

        What PKCS#11 refuses is raised as python-pkcs11's own exception; nothing is tried again.
        """
        outcome: list[tuple[_Result | None, BaseException | None]] = []

        def run() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as error:  # noqa: BLE001  raised again by whoever waits
                outcome.append((None, error))

        with self._turn:
            if self._stuck:
                raise CustodyUnavailableError(
                    f"{self.path} has not come back from {self._stuck}",
                    hint="see to the token, then run this again in a new process",
                )
            thread = threading.Thread(target=run, name="pkcs11", daemon=True)
            thread.start()
            thread.join(deadline)
            if not outcome:
                self._stuck = doing
                raise CustodyUnavailableError(
                    f"the token did not answer within {deadline:g} seconds ({doing}, {self.path})",
                    hint="is it connected, and its service running? then try again",
                )
        result, error = outcome[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # without an error it is what function returned

    def tokens(self, *, deadline: float) -> list[Token]:
        """Return the tokens that are there now and were initialised; raise CustodyError if this is no module."""
        try:
            return self.call("looking for tokens", self._tokens, deadline=deadline)
        except (pkcs11.PKCS11Error, OSError) as error:
            raise CustodyError(
                f"{self.path} cannot be used as a PKCS#11 module: {said(error)}",
                hint="name the vendor's shared library for this machine, and give it its own configuration",
            ) from error

    def _tokens(self) -> list[Token]:
        if self._library is None:
            self._library = pkcs11.lib(str(self.path))
        found = []
        for slot in self._library.get_slots(token_present=True):
            try:
                token = slot.get_token()
            except pkcs11.PKCS11Error:  # removed meanwhile, unknown or broken: the others may be well
                continue
            if TokenFlag.TOKEN_INITIALIZED in token.flags:
                found.append(token)
        return found


_modules: dict[Path, Module] = {}


def load_module(named: Path | None) -> Module:
    """Return the module at ``named``, or the one that the environment names, after looking at its file.

    A module is code that runs with the owner's rights: one that everybody could have written is refused.
    """
    path = named or Path(os.environ.get(_VARIABLE, ""))
    if not path.is_absolute():
        raise CustodyError(
            "no PKCS#11 module is named for the token",
            hint=f"add ?module-path=/path/of/the/vendors/module.so to the address, or set {_VARIABLE}",
        )
    try:
        path = path.resolve(strict=True)
        status = path.stat()
    except OSError as error:
        raise CustodyError(
            f"there is no PKCS#11 module {path}", hint="install the token's software, which brings it; check the path"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CustodyError(f"{path} is not a PKCS#11 module", hint="name the vendor's shared library")
    if status.st_mode & stat.S_IWOTH:
        raise CustodyError(
            f"everybody may write to the PKCS#11 module {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            hint="install it anew, and for root alone to write",
        )
    for folder in path.parents:  # in a sticky one, such as /tmp, nobody exchanges what is another's
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise CustodyError(
                f"everybody may exchange the PKCS#11 module {path}: {folder} has mode {stat.S_IMODE(mode):04o}",
                hint=f"keep it where only root may write, or run: chmod o-w {folder}",
            )
    return _modules.setdefault(path, Module(path))


def said(error: BaseException) -> str:
    """Return what an exception of python-pkcs11 says: often only its name, which is the return code's."""
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
