"""Name what can go wrong with custody; its own file so that every kind of custody can raise it."""

from __future__ import annotations

from strongroom.errors import EnvelopeError


class CustodyError(EnvelopeError):
    """The master key cannot be reached, or cannot open what it should open."""


class WrongPasswordError(CustodyError):
    """The password does not open the master key."""
