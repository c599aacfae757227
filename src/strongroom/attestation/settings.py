"""Read the settings of an appraisal policy as people write them in TOML, strictly (spec/4-release.md §3.10).

An unknown key is refused and never skipped: a misspelt rule would otherwise be no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from strongroom.attestation.snp_criteria import read_minimum
from strongroom.errors import PolicyError

_MOST_DAYS = 36500
_DAYS = {
    "out_of_date_grace_days": "out_of_date_grace",
    "qe_out_of_date_grace_days": "qe_out_of_date_grace",
    "collateral_max_age_days": "collateral_max_age",
}
_LISTS = frozenset({"statuses", "advisories", "denied_advisories", "hardware", "measurements", "reference_values"})
_SWITCHES = frozenset(
    {
        "smt",
        "dynamic_platform",
        "cached_keys",
        "provision_key",
        "protection_keys",
        "key_locker",
        "perfmon",
        "unknown_revocation",
        "unchecked_memory_aliases",
    }
)


def read_setting(name: str, value: Any) -> tuple[str, Any]:  # noqa: ANN401  TOML is whatever TOML is
    """Return the field that one key of the file sets, and its value; raise PolicyError for what is not known."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if name in _DAYS and is_number and 0 <= value <= _MOST_DAYS:
        return _DAYS[name], timedelta(days=value)
    if name in _LISTS and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return name, frozenset(value)
    if (name in _SWITCHES and isinstance(value, bool)) or (name == "minimum_evaluation_number" and is_number):
        return name, value
    if name in _TABLES and isinstance(value, dict):
        return name, {key: _TABLES[name](key, one) for key, one in value.items()}
    if name == "vmpl" and isinstance(value, list) and all(one in range(4) for one in value):
        return name, frozenset(value)
    known = sorted((*_DAYS, *_LISTS, *_SWITCHES, *_TABLES, "minimum_evaluation_number", "vmpl"))
    raise PolicyError(
        f"appraisal policy: {name} = {str(value)[:60]!r} is unknown or of the wrong kind",
        hint=f"keys are {', '.join(known)}",
    )


def _read_least(name: str, value: Any) -> int:  # noqa: ANN401  TOML is whatever TOML is
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PolicyError(
            f"appraisal policy: body_minimum.{name} is unknown or of the wrong kind", hint="write a number"
        )
    return value


def _read_body_values(name: str, values: Any) -> frozenset[str]:  # noqa: ANN401  TOML is whatever TOML is
    if not isinstance(values, list):
        raise PolicyError(f"appraisal policy: body.{name} is unknown or of the wrong kind", hint="write a list")
    return frozenset(str(one) for one in values)


_TABLES: Mapping[str, Callable[[str, Any], object]] = {
    "body": _read_body_values,
    "body_minimum": _read_least,
    "snp_minimum": read_minimum,
}
