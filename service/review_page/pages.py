"""The HTML pages for reviewers, as functions of what the review API tells. Nothing here asks a database."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from screening.intervals import wilson
from screening.task import DIMENSIONS
from service.review_page.charts import Estimate, Row, column_chart, interval_chart

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
HEADERS = {
    # blob: URLs are pictures that the station has downloaded ahead.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every page."""

_MODULES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*js") if path.name != "session.js")
"""Modules of the station. The browser fetches them at once instead of one level of imports after the other."""

_JOBS = (
    (
        "review",
        "Review decisions",
        "Judge pictures that the model has judged. You see its answer after yours.",
        "Review",
    ),
    ("label", "Label pictures", "Judge pictures from scratch, for training and test data.", "Label"),
)
_REASONS = {
    "low_confidence": "uncertain or unreadable answers",
    "disagreement": "disagreement",
    "audit": "random sample",
    "gold": "questions with a known answer",
    "repeat": "repeats",
    "label": "labelling",
    "all": "all tasks",
}

_TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


class Visitor(NamedTuple):
    """The person who looks at a page."""

    name: str
    signed_in: bool
    """Whether a session cookie identifies the person, so that signing out makes sense."""


class ListedReview(NamedTuple):
    """A review in the list of a person's last ones."""

    id: str
    at: datetime
    usable: Sequence[int]
    """Numbers of the usable pictures, as displayed."""
    agrees: bool | None
    """Whether the model's choice is among them; None for a labelling task."""
    corrects: bool
    superseded: bool
    late: bool


class Section(NamedTuple):
    """A part of the statistics page. Without rows it shows `empty`, without a chart only the table."""

    title: str
    text: str
    empty: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    chart: str | None = None


def sign_in_page() -> str:
    """The form that exchanges a key for a session cookie."""
    return _TEMPLATES.get_template("sign_in.html").render(root="../", here="", reviewer="", signed_in=False)


def station_page(visitor: Visitor, job: str | None) -> str:
    """The page on which the station's script runs. `job` limits it to one kind of tasks."""
    return _TEMPLATES.get_template("station.html").render(root="../", reviewer=visitor.name, job=job, modules=_MODULES)


def overview_page(
    visitor: Visitor,
    waiting: Mapping[str, int],
    queue: Mapping[str, Mapping[str, Any]],
    reviews: Sequence[ListedReview],
) -> str:
    """The page `/review`.

    Args:
        waiting: number of tasks that this person can get, by job.
        queue: `queue` of the body of `GET /review/stats`.
        reviews: this person's last reviews, newest first.
    """
    jobs = [
        {"name": name, "title": title, "text": text, "action": action, "open": waiting[name]}
        for name, title, text, action in _JOBS
    ]
    return _TEMPLATES.get_template("overview.html").render(
        root="",
        here="review",
        reviewer=visitor.name,
        signed_in=visitor.signed_in,
        jobs=jobs,
        queue=[
            {**row, "title": _REASONS.get(reason, reason), "oldest": duration(row["oldest_seconds"])}
            for reason, row in queue.items()
        ],
        reviews=[_review_row(review) for review in reviews],
    )


def _review_row(review: ListedReview) -> dict[str, str | bool]:
    remarks = {
        "corrects an earlier one": review.corrects,
        "corrected later": review.superseded,
        "late": review.late,
    }
    model = {None: "", True: "agrees", False: "differs"}[review.agrees]
    return {
        "id": review.id,
        "superseded": review.superseded,
        "at": f"{review.at:%Y-%m-%d %H:%M}",
        "usable": ", ".join(map(str, review.usable)) or "none",
        "model": model,
        "remark": ", ".join(remark for remark, applies in remarks.items() if applies),
    }


def statistics_page(visitor: Visitor, stats: Mapping[str, Any], since: str | None, until: str | None) -> str:
    """The page `/review/statistics` for the body of `GET /review/stats` of a period."""
    sections = [_agreement(stats["agreement"]), _model(stats["model"])]
    if stats.get("gold") is not None:
        sections.append(_gold(stats["gold"]))
    sections += [_throughput(stats["throughput"]), _reviewers(stats["throughput"])]
    return _TEMPLATES.get_template("statistics.html").render(
        root="../",
        here="review/statistics",
        reviewer=visitor.name,
        signed_in=visitor.signed_in,
        since=since,
        until=until,
        sections=sections,
    )


def _agreement(rows: Sequence[Mapping[str, Any]]) -> Section:
    titles = {dimension.value: dimension.title for dimension in DIMENSIONS}
    rows = [{**row, "name": titles.get(row["dimension"], row["dimension"])} for row in rows if row["pairs"]]
    ac1 = [Estimate(row["ac1"], _interval(row.get("ac1_interval"))) for row in rows]
    alpha = [Estimate(row["alpha"], _interval(row.get("alpha_interval"))) for row in rows]
    title = "Agreement of two reviewers"
    return Section(
        title,
        "How often two people who judged the same picture agree beyond chance: 1 is full agreement, 0 is chance. Bars "
        "are 95 % intervals. Krippendorff's alpha falls when nearly all pictures are alike; Gwet's AC1 does not.",
        empty="No picture has been judged by two people yet.",
        columns=("dimension", "pairs", "raw agreement", "AC1", "alpha"),
        rows=[
            (row["name"], row["pairs"], Estimate(row["raw"]).text(percent=True), one.text(), other.text())
            for row, one, other in zip(rows, ac1, alpha, strict=True)
        ],
        chart=interval_chart(
            title,
            [
                Row(row["name"], f"{row['pairs']} pairs", pair)
                for row, pair in zip(rows, zip(ac1, alpha, strict=True), strict=True)
            ],
            low=_lowest([*ac1, *alpha]),
            names=("Gwet's AC1", "Krippendorff's alpha"),
            percent=False,
        ),
    )


def _model(model: Mapping[str, Any]) -> Section:
    weighted = Estimate(model["accuracy"], _interval(model.get("interval")))
    unweighted = Estimate(model["unweighted"])
    rows = [("all decisions", weighted), ("only the reviewed ones", unweighted)] if weighted.value is not None else []
    title = "Accuracy of the model"
    return Section(
        title,
        "Estimated from blind reviews. Uncertain decisions are reviewed more often than others; the first row corrects "
        "for that with the probability with which each decision was chosen, and the second does not.",
        empty="Too few decisions have been reviewed.",
        columns=("decisions", "accuracy"),
        rows=[(name, one.text(percent=True)) for name, one in rows],
        chart=interval_chart(
            title,
            [Row(name, f"{model['reviewed']} reviews", (one,)) for name, one in rows],
            names=("accuracy with 95 % interval",),
            percent=True,
        ),
    )


def _gold(rows: Sequence[Mapping[str, Any]]) -> Section:
    named = [(row["reviewer"], row["answered"], _proportion(row["right"], row["answered"])) for row in rows]
    title = "Questions with a known answer"
    return Section(
        title,
        "How often each person gives the known answer, with a 95 % interval. Only leads see this.",
        empty="No such question has been answered yet.",
        columns=("person", "answered", "right"),
        rows=[(name, answered, one.text(percent=True)) for name, answered, one in named],
        chart=interval_chart(
            title,
            [Row(name, f"{answered} answers", (one,)) for name, answered, one in named],
            names=("right answers",),
            percent=True,
        ),
    )


def _throughput(rows: Sequence[Mapping[str, Any]]) -> Section:
    days: Counter[str] = Counter()
    for row in rows:
        days[str(row["day"])] += row["reviews"]
    title = "Reviews per day"
    return Section(
        title,
        "All reviews of all people, by the day in UTC.",
        empty="There are no reviews in this period.",
        columns=("day", "reviews"),
        rows=sorted(days.items()),
        chart=column_chart(title, [(day[5:], count) for day, count in sorted(days.items())]),
    )


def _reviewers(rows: Sequence[Mapping[str, Any]]) -> Section:
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        counts[row["reviewer"]] += row["reviews"]
        seconds[row["reviewer"]].append(row["median_active_seconds"] or 0)
    return Section(
        "Reviews per person",
        "The time is that of work on one task without pauses: the median of a person's days.",
        empty="There are no reviews in this period.",
        columns=("person", "reviews", "time for one"),
        rows=[(name, count, duration(statistics.median(seconds[name]))) for name, count in counts.most_common()],
    )


def _interval(ends: Sequence[float] | None) -> tuple[float, float] | None:
    return (ends[0], ends[1]) if ends is not None and None not in ends else None


def _lowest(estimates: Sequence[Estimate]) -> float:
    """Lower end of an axis on which all estimates have their place: 0 or a multiple of 0.2 below it."""
    values = [0.0]
    for value, interval in estimates:
        values += [value] if value is not None else []
        values += interval or ()
    return max(math.floor(5 * min(values)) / 5, -1.0)


def _proportion(right: int, answered: int) -> Estimate:
    """A proportion with its Wilson interval at 95 %."""
    if answered == 0:
        return Estimate(None)
    return Estimate(right / answered, wilson(right, answered))


def duration(seconds: float | None) -> str:
    """For people: `40 s`, `12 min`, `5 h`, `3 days`; `–` for None."""
    if seconds is None:
        return "–"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
