"""Renders a result as HTML for a notebook. All text is escaped, and nothing is loaded from other places."""

from __future__ import annotations

from html import escape

from screening_client.result import OptionVerdict, Screening

_HEAD = ("", "usable", "probability", "issues", "comment")


def html(screening: Screening) -> str:
    """Render the decision, one row per picture, and the reasoning in a collapsed section."""
    review = ", needs review" if screening.needs_review else ""
    decision = f"<b>{escape(_decision(screening))}</b> (confidence {screening.confidence:.2f}{review})"
    warnings = "".join(f"<p>⚠ {escape(warning.detail)}</p>" for warning in screening.warnings)
    rows = "".join(_row(verdict, chosen=verdict is screening.best) for verdict in screening.options)
    table = f"<table><thead><tr>{_cells('th', _HEAD)}</tr></thead><tbody>{rows}</tbody></table>"
    reasoning = screening.reasoning and f"<details><summary>reasoning</summary>{escape(screening.reasoning)}</details>"
    origin = f"{screening.checkpoint.name} {screening.checkpoint.version} on {screening.engine}, {screening.id}"
    return f"<div><p>{decision}</p>{warnings}{table}{reasoning or ''}<small>{escape(origin)}</small></div>"


def _decision(screening: Screening) -> str:
    if screening.choice is None:
        return f"No decision: the model's answer could not be read ({screening.unreadable_reason})"
    return "No picture may be shown" if screening.choice == "N" else f"Show picture {screening.choice}"


def _row(verdict: OptionVerdict, *, chosen: bool) -> str:
    name = f"{verdict.option} ✓" if chosen else verdict.option
    probability = "-" if verdict.probability is None else f"{verdict.probability:.2f}"
    issues = ", ".join(issue.replace("_", " ") for issue in verdict.issues) or "-"
    texts = (name, "yes" if verdict.usable else "no", probability, issues, verdict.comment or "-")
    return f"<tr>{_cells('td', texts)}</tr>"


def _cells(tag: str, texts: tuple[str, ...]) -> str:
    return "".join(f"<{tag} style='text-align:left'>{escape(text)}</{tag}>" for text in texts)
