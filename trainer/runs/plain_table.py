"""Tables in the output of a command. `gpu-check` uses them where only torch and transformers are installed."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[\d,.]+(e[+-]\d+)?%?")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a plain table: columns with numbers are right-aligned, words and the first column left-aligned.

    A row with nothing but a first cell is a heading, which may be wider than its column.
    """
    columns = range(len(rows[0]))
    widths = [max(len(row[column]) for row in rows if any(row[1:])) for column in columns]
    numeric = [column > 0 and any(_NUMBER.fullmatch(row[column]) for row in rows) for column in columns]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
