"""Formats a result as plain text for a terminal, and an error as JSON for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from screening_client.errors import ScreeningClientError, StatusError
from screening_client.result import OptionVerdict, Screening

WIDTH = 100


def report(screening: Screening) -> str:
    """Format the decision, one row per picture and the reasoning."""
    lines = [f"{name:<12}{plain(value)}" for name, value in _facts(screening)]
    rows = [("", "usable", "issues", "comment")]
    for option in screening.options:
        issues = ", ".join(_issue(issue, option) for issue in option.issues) or "-"
        rows.append((option.option, "yes" if option.usable else "no", issues, option.comment or "-"))
    lines += ["", *_table(rows)]
    if screening.reasoning:
        lines += ["", "reasoning", textwrap.indent(textwrap.fill(plain(screening.reasoning), WIDTH - 2), "  ")]
    return "\n".join(lines)


def _issue(issue: str, option: OptionVerdict) -> str:
    """The name of an issue, and where it is in percent of width and height, from left and top to right and bottom."""
    box = next((region.box for region in option.regions or () if region.issue == issue), None)
    name = issue.replace("_", " ")
    return f"{name} at {'-'.join(f'{100 * edge:.0f}' for edge in box)} %" if box else name


def error_document(error: ScreeningClientError, exit_code: int) -> dict[str, Any]:
    """Return the document that `--json` prints for an error. Fields without a value are omitted."""
    facts: dict[str, Any] = {
        "kind": type(error).__name__,
        "message": str(error),
        "exit_code": exit_code,
        "type": error.type,
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
        "request_id": error.request_id,
        "retry_after": error.retry_after,
        "attempts": error.attempts,
    }
    if isinstance(error, StatusError):
        facts |= {"status": error.status, "picture": error.picture}
    return {"error": {name: value for name, value in facts.items() if value is not None}}


def _facts(screening: Screening) -> list[tuple[str, str]]:
    others = [option for option in screening.acceptable if option != screening.choice]
    choice = {None: "none: the model's answer could not be read", "N": "N (no picture may be shown)"}.get(
        screening.choice, f"{screening.choice}" + (f" (also acceptable: {', '.join(others)})" if others else "")
    )
    review = ", needs review" if screening.needs_review else ""
    checkpoint = screening.checkpoint
    facts = [
        ("choice", choice),
        ("confidence", f"{screening.confidence:.2f}{review}"),
        ("answered by", f"{checkpoint.name} {checkpoint.version} on {screening.engine}"),
        ("took", f"{screening.timings.total_ms:.0f} ms"),
        ("id", screening.id),
    ]
    return [*facts, ("unreadable", screening.unreadable_reason)] if screening.unreadable_reason else facts


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format a table. Columns are padded to their widest cell, and the last one is wrapped."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines: list[str] = []
    for row in rows:
        left = "  ".join(plain(cell).ljust(width) for cell, width in zip(row, widths, strict=False)) + "  "
        first, *others = textwrap.wrap(plain(row[-1]), max(WIDTH - len(left), 30)) or [""]
        lines += [left + first, *(" " * len(left) + other for other in others)]
    return lines


def plain(text: str) -> str:
    """Replace control characters, because a model's text must not control the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
