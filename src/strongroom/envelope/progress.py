"""Tell how far a long conversion is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the source bytes done so far and their total."""


def silent(_done: int, _total: int) -> None:
    """Report nothing."""
