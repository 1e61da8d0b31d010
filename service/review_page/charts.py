"""Charts as SVG text. Colours and line widths are in review.css, because the pages allow no inline style."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from markupsafe import Markup

_WIDTH = 720
_LABELS = 190
"""Width of the column of labels, in units of the drawing."""
_RIGHT = 90
"""Width of the column of numbers."""
_ROW = 34
_TOP = 26
_COLUMN_HEIGHT = 150
_MAX_DAY_LABELS = 12


class Estimate(NamedTuple):
    """An estimated value with its interval; None where there are too few data."""

    value: float | None
    interval: tuple[float, float] | None = None

    def text(self, percent: bool = False) -> str:
        """For people: `0.71 (0.62 to 0.80)`, or `–`."""
        if self.value is None:
            return "–"
        value = _number(self.value, percent)
        if self.interval is None:
            return value
        low, high = (_number(end, percent) for end in self.interval)
        return f"{value} ({low} to {high})"


class Row(NamedTuple):
    """A row of an interval chart: one estimate, or two to compare."""

    label: str
    note: str
    """Text at the right, such as the number of pairs."""
    estimates: tuple[Estimate, ...]


def interval_chart(title: str, rows: Sequence[Row], *, low: float = 0.0, names: Sequence[str], percent: bool) -> Markup:
    """Draw dots with intervals on an axis from `low` to 1.

    Args:
        low: 0 or a negative multiple of 0.2.
        names: what the estimates of each row are, for the legend.
    """
    height = _TOP + _ROW * len(rows) + 30
    ticks = [tick / 5 for tick in range(round(5 * low), 6)]
    parts = [_legend(names)]
    for tick in ticks:
        x = _x(tick, low)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - 22}"/>')
        parts.append(
            f'<text class="faint" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{_number(tick, percent)}</text>'
        )
    for index, row in enumerate(rows):
        parts += _interval_row(row, _TOP + _ROW * (index + 0.5), low)
    return _svg(title, height, parts)


def _interval_row(row: Row, y: float, low: float) -> list[str]:
    parts = [
        f'<text x="0" y="{y + 4:.1f}">{escape(row.label)}</text>',
        f'<text class="faint" x="{_WIDTH}" y="{y + 4:.1f}" text-anchor="end">{escape(row.note)}</text>',
    ]
    spread = 10 if len(row.estimates) > 1 else 0
    for kind, (value, interval), shift in zip(("", "second "), row.estimates, (-spread / 2, spread / 2), strict=False):
        height = y + shift
        if interval is not None:
            left, right = (_x(end, low) for end in interval)
            parts.append(
                f'<line class="{kind}interval" x1="{left:.1f}" x2="{right:.1f}" y1="{height:.1f}" y2="{height:.1f}"/>'
            )
        if value is not None:
            parts.append(f'<circle class="{kind}dot" cx="{_x(value, low):.1f}" cy="{height:.1f}" r="5"/>')
    return parts


def _legend(names: Sequence[str]) -> str:
    parts, x = [], float(_LABELS)
    for kind, name in zip(("", "second "), names, strict=False):
        parts.append(f'<circle class="{kind}dot" cx="{x + 5:.0f}" cy="10" r="5"/>')
        parts.append(f'<text x="{x + 16:.0f}" y="14">{escape(name)}</text>')
        x += 40 + 7.5 * len(name)
    return "".join(parts)


def column_chart(title: str, columns: Sequence[tuple[str, int]]) -> Markup:
    """Draw one column for each label, such as the reviews of each day."""
    largest = max((count for _, count in columns), default=0) or 1
    step = (_WIDTH - 40) / max(len(columns), 7)
    every = -(-len(columns) // _MAX_DAY_LABELS)
    base = _TOP + _COLUMN_HEIGHT
    parts = [f'<line class="axis" x1="40" x2="{_WIDTH}" y1="{base}" y2="{base}"/>']
    for tick, y in ((0, base), (largest, _TOP)):
        parts.append(f'<text class="faint" x="32" y="{y + 4}" text-anchor="end">{tick}</text>')
    for index, (label, count) in enumerate(columns):
        x, height = 40 + step * (index + 0.15), _COLUMN_HEIGHT * count / largest
        parts.append(
            f'<rect class="column" x="{x:.1f}" y="{base - height:.1f}" width="{0.7 * step:.1f}" height="{height:.1f}">'
            f"<title>{escape(label)}: {count}</title></rect>"
        )
        if index % every == 0:
            middle = x + 0.35 * step
            parts.append(
                f'<text class="faint" x="{middle:.1f}" y="{base + 16}" text-anchor="middle">{escape(label)}</text>'
            )
    return _svg(title, base + 24, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> Markup:
    """Wrap the parts. All text in them is escaped where it is written."""
    return Markup(  # noqa: S704 - see above
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _x(value: float, low: float) -> float:
    share = (min(max(value, low), 1.0) - low) / (1 - low)
    return _LABELS + share * (_WIDTH - _LABELS - _RIGHT - 20)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.0f} %" if percent else f"{value:.2f}"
