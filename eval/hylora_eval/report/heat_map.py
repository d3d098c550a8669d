# SPDX-License-Identifier: Apache-2.0
"""Tables of per cents as coloured maps: drawn where the page is written, so that they need no script."""

from __future__ import annotations

from html import escape

from hylora_eval.report.tables import Cell, Section, Table

__all__ = ["heat_map", "heat_scale", "shade"]

# From missed to found: light in the middle, and apart for those who tell no red from green.
_STOPS = ((0.0, (179, 66, 19)), (0.5, (246, 239, 218)), (1.0, (9, 84, 148)))
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)

# In units of the picture, which are pixels where it has room.
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 58, 30, 84, 4, 38


def shade(value: float) -> tuple[str, str]:
    """The colour of a value from 0 to 100, and that of what is written on it, as #rrggbb."""
    share = min(max(value / 100, 0.0), 1.0)
    (low, first), (high, last) = _STOPS[:2] if share <= 0.5 else _STOPS[1:]
    weight = (share - low) / (high - low)
    ground = tuple(round(a + weight * (b - a)) for a, b in zip(first, last, strict=True))
    return _hex(ground), _hex(max(_DARK, _LIGHT, key=lambda color: _contrast(color, ground)))


def _hex(color: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)


def _contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """From 1 to 21, as WCAG 2 defines it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: tuple[int, ...]) -> float:
    shares = [part / 255 for part in color]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def heat_scale() -> str:
    """What the colours mean."""
    stops = "".join(f'<i style="background:{shade(value)[0]}"></i>' for value in range(0, 101, 10))
    return f'<p class="heat-scale"><span>0 %</span>{stops}<span>100 %</span><i class="missing"></i>no sample</p>'


def heat_map(table: Table, section: Section) -> str:
    """An SVG of a section: rows from top to bottom, columns from left to right, cells without a number empty.

    Args:
        table: whose numbers are per cent.
        section: of it.
    """
    rows, columns = section.rows, table.columns
    right, bottom = _LEFT + len(columns) * _WIDTH, _TOP + len(rows) * _HEIGHT
    parts = [
        f'<svg class="heat" role="img" viewBox="0 0 {right + 4} {bottom + _BOTTOM}" width="{right + 4}" '
        f'aria-label="{escape(section.title)}; the table below holds the same numbers">'
    ]
    for i, row in enumerate(rows):
        top = _TOP + i * _HEIGHT
        parts.append(f'<text x="{_LEFT - 6}" y="{top + _HEIGHT / 2 + 4}" text-anchor="end">{escape(row.label)}</text>')
        for j, (column, cell) in enumerate(zip(columns, row.cells, strict=True)):
            where = f"{table.stub} {row.label}, {column.label} tokens"
            parts.append(_cell(cell, _LEFT + j * _WIDTH, top, where))
    for j, column in enumerate(columns):
        middle = _LEFT + (j + 0.5) * _WIDTH
        parts.append(f'<text x="{middle}" y="{bottom + 15}" text-anchor="middle">{escape(column.label)}</text>')
    parts.append(
        f'<text x="{(_LEFT + right) / 2}" y="{bottom + 32}" text-anchor="middle">context length (tokens)</text>'
        f'<text transform="translate(11 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(table.stub.lower())}</text></svg>"
    )
    return "".join(parts)


def _cell(cell: Cell, left: float, top: float, where: str) -> str:
    rect = f'<rect x="{left}" y="{top}" width="{_WIDTH - 1}" height="{_HEIGHT - 1}"'
    middle = left + _WIDTH / 2
    if cell.measurement is None or not cell.measurement.finite:
        return (
            f"<g><title>{escape(where)}: {'no sample' if cell.measurement is None else cell.text}</title>"
            f'{rect} class="missing"/><text x="{middle}" y="{top + 19}" text-anchor="middle">{cell.text}</text></g>'
        )
    ground, ink = shade(cell.measurement.value)
    return (
        f"<g><title>{escape(where)}: {cell.text}, {cell.error_text}</title>"
        f'{rect} fill="{ground}"/><text x="{middle}" y="{top + 14}" text-anchor="middle" style="fill:{ink}" '
        f'class="value">{cell.text}</text><text x="{middle}" y="{top + 25}" text-anchor="middle" '
        f'style="fill:{ink}" class="count">{cell.error_text}</text></g>'
    )
