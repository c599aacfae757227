"""Keep master keys where their owners want them: a password-protected file, or OpenBao / Vault.

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
    """Return the custody at ``uri``; ``password`` is called only by custodies that need one.

    ``file:/path/master.key`` or ``openbao://host:port/mount/key?ca=/ca.pem&token_file=/token`` (alias ``vault://``).
    """
    return _route(uri, password, create=False)


def create_custody(uri: str, *, password: Callable[[], bytes]) -> Custody:
    """Make a new master key at ``uri`` and return its custody; an existing one is never overwritten."""
    return _route(uri, password, create=True)


def _route(uri: str, password: Callable[[], bytes], *, create: bool) -> Custody:
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        from strongroom.envelope.custody.file import FileCustody

        return FileCustody.create(uri, password=password) if create else FileCustody.open(uri, password=password)
    if scheme in {"openbao", "vault"}:
        from strongroom.envelope.custody.openbao import OpenBaoCustody

        return OpenBaoCustody.create(uri) if create else OpenBaoCustody.open(uri)
    raise CustodyError(
        f"no custody of kind {scheme[:40]!r}",
        hint="write file:/path/master.key, or openbao://host:port/mount/key?ca=/ca.pem&token_file=/token",
    )
