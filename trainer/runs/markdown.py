"""Parts of the reports in Markdown that trainer commands write."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.shares import Share


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns; the first is left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def cell_text(text: str) -> str:
    """Free text made fit for one cell of a Markdown table: it may hold a bar or a line break."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def number(value: float | None) -> str:
    """A number for a cell; `-` if there is none."""
    return "-" if value is None else f"{value:.2f}"


def percent(one: Share) -> str:
    """A share with its unit, such as `38.25 %`; `-` if it is of nothing."""
    return "-" if one.percent is None else f"{one.percent:.2f} %"


def interval(one: Share) -> str:
    """The confidence interval of a share in percent, such as `30.1 to 46.9`; `-` if the share is of nothing."""
    return "-" if one.low is None or one.high is None else f"{one.low:.1f} to {one.high:.1f}"


def with_interval(one: Share) -> str:
    """A share with its confidence interval, such as `38.2 % (30.1 to 46.9)`; `-` if it is of nothing."""
    return "-" if one.percent is None else f"{one.percent:.1f} % ({interval(one)})"
