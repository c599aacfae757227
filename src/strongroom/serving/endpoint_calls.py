"""The one message by which a caller says that it speaks HTTP from here on (spec/8-serving.md §3)."""

from __future__ import annotations

from typing import Any, Final

CALL: Final[dict[str, Any]] = {"type": "call"}
