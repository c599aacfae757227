"""Show results and refusals as HTML that reads well in a notebook; whatever stands in the data is escaped.

Pure: values in, text out.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

SHOWN_ROWS: Final = 20
_DIGITS: Final = 6
_CARD: Final = (
    "font:13px/1.45 system-ui,sans-serif;border:1px solid rgba(128,128,128,.35);border-radius:8px;"
    "padding:10px 14px;display:inline-block;max-width:100%;overflow-x:auto"
)
_HEAD: Final = "display:flex;gap:10px;align-items:baseline;margin-bottom:6px;flex-wrap:wrap"
_QUIET: Final = "opacity:.65"
_BADGE: Final = "background:#b7791f;color:#fff;border-radius:4px;padding:0 6px;font-size:11px"
_RED: Final = "color:#c53030;font-weight:600"
_CELL: Final = "padding:2px 12px 2px 0;white-space:nowrap;text-align:{align};background:transparent"


def show_table(table: pa.Table, *, title: str, facts: Sequence[str], simulated: bool, rows: int = SHOWN_ROWS) -> str:
    """Return ``table`` as a card with its title, what else is known of it, and its first ``rows`` rows."""
    numeric = [pa.types.is_integer(one.type) or pa.types.is_floating(one.type) for one in table.schema]
    head = "".join(
        f'<th style="{_cell(number)};border-bottom:1px solid rgba(128,128,128,.5)">{_text(name)}</th>'
        for name, number in zip(table.column_names, numeric, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f'<td style="{_cell(number)}">{_value(value)}</td>' for value, number in pairs) + "</tr>"
        for pairs in (zip(row.values(), numeric, strict=True) for row in table.slice(0, rows).to_pylist())
    )
    more = f'<div style="{_QUIET}">and {table.num_rows - rows:,} more rows</div>' if table.num_rows > rows else ""
    return (
        f'<div style="{_CARD}">{_header(title, facts, simulated=simulated)}'
        f'<table style="font:inherit;border-collapse:collapse;border:0;margin:0"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{more}</div>"
    )


def show_refusal(message: str, *, reasons: Sequence[str], hint: str = "") -> str:
    """Return a refusal as a card that lists every reason."""
    items = "".join(f'<li style="margin:2px 0">{_text(reason)}</li>' for reason in reasons)
    listed = f'<ol style="margin:4px 0 4px 18px;padding:0">{items}</ol>' if items else ""
    todo = f'<div style="{_QUIET}">{_text(hint)}</div>' if hint else ""
    return (
        f'<div style="{_CARD};border-left:4px solid #c53030"><div style="{_HEAD}"><span style="{_RED}">refused</span>'
        f"<span>{_text(message.removeprefix('refused: '))}</span></div>"
        f"{listed}{todo}</div>"
    )


def show_facts(title: str, facts: Mapping[str, str], *, simulated: bool) -> str:
    """Return names and values as a card."""
    rows = "".join(
        f'<tr><td style="{_cell(False)};{_QUIET}">{_text(name)}</td><td style="{_cell(False)}">{_text(value)}</td></tr>'
        for name, value in facts.items()
    )
    return (
        f'<div style="{_CARD}">{_header(title, (), simulated=simulated)}'
        f'<table style="font:inherit;border-collapse:collapse;border:0;margin:0"><tbody>{rows}</tbody></table></div>'
    )


def _header(title: str, facts: Sequence[str], *, simulated: bool) -> str:
    badge = f'<span style="{_BADGE}">simulated TEE: protects nothing</span>' if simulated else ""
    said = "".join(f'<span style="{_QUIET}">{_text(fact)}</span>' for fact in facts)
    return f'<div style="{_HEAD}"><b>{_text(title)}</b>{said}{badge}</div>'


def _cell(number: bool) -> str:
    return _CELL.format(align="right" if number else "left")


def _value(value: object) -> str:
    if value is None:
        return f'<span style="{_QUIET}">none</span>'
    if isinstance(value, float):
        return f"{value:,.{_DIGITS}g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _text(str(value))


def _text(text: str) -> str:
    return html.escape(text, quote=True)
