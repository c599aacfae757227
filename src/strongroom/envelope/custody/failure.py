"""Name what can go wrong with custody; its own file so that every kind of custody can raise it."""

from __future__ import annotations

from strongroom.errors import EnvelopeError


class CustodyError(EnvelopeError):
    """The master key cannot be reached, or cannot open what it should open."""


class WrongPasswordError(CustodyError):
    """The password, or a token's PIN, does not open the master key."""


class CustodyUnavailableError(CustodyError):
    """The key service or token cannot be reached, or does not answer in time."""


class AbsentKeyError(CustodyError):
    """There is no such key, token or mount."""
