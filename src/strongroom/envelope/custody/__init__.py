"""Keep master keys where their owners want them: a password-protected file, OpenBao / Vault, or a PKCS#11 token.

Custody wraps and unwraps data keys; the master key itself never leaves it (spec/1-encrypted-dataset.md §8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

from strongroom.envelope.custody.failure import CustodyError
from strongroom.envelope.keys import DataKey

__all__ = ["Custody", "CustodyError", "create_custody", "open_custody"]


class Custody(Protocol):
    """A place that holds one master key and wraps data keys under it."""

    @property
    def uri(self) -> str:
        """Return where this custody is; it stands in manifests and holds no secret."""

    def wrap(self, key: DataKey, *, context: bytes) -> str:
        """Return ``key`` wrapped under the master key and bound to ``context``, as printable text."""

    def unwrap(self, wrapped: str, *, context: bytes) -> DataKey:
        """Return the key that :meth:`wrap` wrapped with the same ``context``; raise CustodyError otherwise."""


def open_custody(uri: str, *, password: Callable[[], bytes]) -> Custody:
    """Return the custody at ``uri``; ``password`` is called only by custodies that need one, and returns a token's PIN.

    ``file:/path/master.key``, ``openbao://host:port/mount/key?ca=/ca.pem&token_file=/token`` (alias ``vault://``) or
    ``pkcs11:token=NAME;object=KEY?module-path=/path/module.so``.
    """
    return _route(uri, password, create=False)


def create_custody(uri: str, *, password: Callable[[], bytes]) -> Custody:
    """Make a new master key at ``uri`` and return its custody; an existing one is never overwritten."""
    return _route(uri, password, create=True)


def _route(uri: str, password: Callable[[], bytes], *, create: bool) -> Custody:
    try:
        scheme = urlsplit(uri).scheme
    except ValueError:  # brackets that hold no IPv6 address
        scheme = ""
    if scheme == "file":
        from strongroom.envelope.custody.file import FileCustody

        return FileCustody.create(uri, password=password) if create else FileCustody.open(uri, password=password)
    if scheme == "release":
        raise CustodyError(
            "no owner's master key wraps the key of this dataset: it came from a job, and stays with the broker",
            hint="a dataset that a job left is registered with `strongroom register --output`",
        )
    if scheme in {"openbao", "vault"}:
        from strongroom.envelope.custody.openbao import OpenBaoCustody

        return OpenBaoCustody.create(uri) if create else OpenBaoCustody.open(uri)
    if scheme == "pkcs11":
        try:
            from strongroom.envelope.custody.pkcs11 import Pkcs11Custody
        except ModuleNotFoundError as error:
            raise CustodyError(
                "a PKCS#11 token needs the library python-pkcs11",
                hint="install the extra hsm, or: pip install 'python-pkcs11>=0.10,<0.11'",
            ) from error
        return Pkcs11Custody.create(uri, password=password) if create else Pkcs11Custody.open(uri, password=password)
    raise CustodyError(
        f"no custody of kind {scheme[:40]!r}",
        hint="write file:/path/master.key, openbao://host:port/mount/key?ca=/ca.pem&token_file=/token, or "
        "pkcs11:token=NAME;object=KEY?module-path=/path/module.so",
    )
