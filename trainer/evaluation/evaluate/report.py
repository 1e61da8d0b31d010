"""`report.md`: the result of an evaluation as a page for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from screening.answer import Mode
from screening.runtime.atomic_write import write_atomically
from screening.task import NONE, OPTIONS, Dimension
from trainer.evaluation.evaluate.locating import Locating
from trainer.evaluation.evaluate.plot import PLOT_NAME, plot
from trainer.evaluation.evaluate.result import SCORES_NAME, EvaluatedEndpoint, Evaluation
from trainer.evaluation.reliability import Reliability
from trainer.metrics import Score, Scores, WeightedScore
from trainer.picture_verdicts import DimensionVerdicts, Verdicts
from trainer.products import counted
from trainer.runs.markdown import interval, number, percent, table
from trainer.shares import Share

REPORT_NAME = "report.md"

_SCORE_INTRO = """\
## Score

A readable answer is correct if every option that it names is in the label. A dimension's score is measured on
the samples in which at least one picture shows that issue; the paper does not say how it assigns samples to dimensions.
`random` is the score of guessing one of A, B, C, D, N blindly on the same samples."""

_ALIKE = """\
Answers about one product are alike, so its samples count as fewer in the intervals (effective number of samples, Rao
and Scott 1992). The interval of the calibration error counts each sample."""

_COT_INTRO = """\
## Pictures

`named`: the reasoning names the dimension; by severity 1 subtle, 2 clear, 3 gross. `held back`: the answer does not
offer the picture. `false alarm`: normal pictures for which the dimension is named. `precision`: share of the pictures
with this verdict that have the defect. All values are percentages, with n in brackets."""

_DIRECT_INTRO = """\
## Pictures

`held back`: the answer does not offer the picture; by severity 1 subtle, 2 clear, 3 gross. All values are percentages,
with n in brackets."""


_LOCATING_INTRO = """\
## Where the issues are

Over the issues that the reasoning names and that the picture has. `centre`: the middle of the box lies in the true
region. `overlap`: the intersection over union with the true region is at least 0.5. An issue without a box counts as
wrong. All values are percentages."""

_CONFIDENCE_INTRO = """\
## Confidence

The confidence is that of the single choice; an unreadable answer has confidence 0 and is wrong. ECE: mean distance
between confidence and share of right answers, over bins of equally many answers. `by chance alone`: the ECE that a
perfectly calibrated model would show with this number of answers. AURC: share of wrong answers among the surest, mean
over all coverages."""


def write_result(out: Path, evaluation: Evaluation) -> None:
    """Write the plot, the page, and last the file for programs, which marks completion."""
    picture = ""
    if evaluation.reliability:
        plot(evaluation.reliability, evaluation.uncalibrated, out / PLOT_NAME)
        picture = f"\n![confidence]({PLOT_NAME})\n"
    else:
        (out / PLOT_NAME).unlink(missing_ok=True)  # an earlier run with fewer answers may have left it
    write_atomically(out / REPORT_NAME, render(evaluation) + picture)
    write_atomically(out / SCORES_NAME, evaluation.model_dump_json(indent=2) + "\n")


def render(evaluation: Evaluation) -> str:
    """The report as Markdown whose tables also line up as plain text."""
    scores, data = evaluation.scores, evaluation.data
    limited = f" (the first of {data.samples})" if data.evaluated < data.samples else ""
    parts = [
        f"# {evaluation.model.title}, {evaluation.asked}: {percent(scores.overall.correct)}",
        f"{counted(data.evaluated, data.products)}{limited}, {scores.confidence_level:.0%} intervals (Wilson), "
        f"{evaluation.created}.\n"
        f"{'endpoint' if evaluation.endpoint else 'checkpoint'} {evaluation.model.digest}\ndata {data.digest}",
        _ALIKE if data.products is not None else "",
        _endpoint(evaluation.endpoint) if evaluation.endpoint else "",
        _SCORE_INTRO,
        _score_table(scores),
        _weighted(scores.weighted) if scores.weighted else "",
        "## Answers",
        _answer_table(evaluation),
        _unreadable_table(scores) if scores.unreadable.hits else "",
        "## Position\n\nEach sample divides one vote among its options. Values are percentages.",
        _balance_table(scores),
        *_verdict_parts(evaluation),
        *(_locating_parts(evaluation.locating) if evaluation.locating else []),
        *(_reliability_parts(evaluation.reliability, evaluation.uncalibrated) if evaluation.reliability else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _endpoint(one: EvaluatedEndpoint) -> str:
    """Which model was asked and how, and what is unknown about its answers."""
    asked = one.asked
    temperature = "its own temperature" if asked.temperature is None else f"temperature {asked.temperature:g}"
    names = ", ".join(f"{name or 'no name'} ({count})" for name, count in one.answered_as.items())
    lines = [
        f"Endpoint: {one.url}. Prompt {asked.prompt}, pictures of at most {asked.picture_size} pixels, at most "
        f"{asked.reply_tokens} tokens, {temperature}. Names of the model in its answers: {names or 'none'}."
    ]
    if one.refused:
        lines.append(f"Refused requests: {one.refused}. They count as wrong; the log has the reasons.")
    if one.cost is not None:
        lines.append(f"Cost of the answers: {one.cost:.4g}.")
    lines.append("Probabilities are unknown, so neither a single choice nor a confidence is given.")
    return "\n".join(lines)


def _score_table(scores: Scores) -> str:
    named: list[tuple[str, Score]] = [("overall", scores.overall)]
    named += [(dimension.title, score) for dimension, score in scores.dimensions.items()]
    return table(
        ["", "score %", "interval", "random %", "n"],
        [
            [name, number(s.correct.percent), interval(s.correct), number(s.baseline), str(s.correct.n)]
            for name, s in named
        ],
    )


def _weighted(one: WeightedScore) -> str:
    return (
        f"Weighted by inverse inclusion probability, the overall score is {one.percent:.2f} % ({one.low:.1f} to "
        f"{one.high:.1f}): an estimate for all questions from which these were drawn. The {one.n} samples say as much "
        f"as {one.effective:.0f} equally weighted ones."
    )


def _answer_table(evaluation: Evaluation) -> str:
    scores, tokens = evaluation.scores, evaluation.tokens
    named = [
        *([("single choice is in the label", scores.choice)] if scores.choice.n else []),
        *((name.rpartition(":")[2].replace("_", " "), one) for name, one in scores.metrics.items()),
        ("unreadable", scores.unreadable),
        ("N precision", scores.none.precision),
        ("N recall", scores.none.recall),
        *([("flagged as out of the domain", evaluation.out_of_domain)] if evaluation.out_of_domain else []),
    ]
    rows = [[name, number(one.percent), interval(one), str(one.n)] for name, one in named]
    spent = "The endpoint does not count tokens"
    if tokens.prompt is not None and tokens.completion is not None:
        spent = f"Tokens per question: {tokens.prompt:.0f} in, {tokens.completion:.0f} out"
    note = f"\n\n{spent}; {tokens.cut} outputs were cut at the limit."
    return table(["", "%", "interval", "n"], rows) + note


def _unreadable_table(scores: Scores) -> str:
    rows = [[reason, str(one.hits), number(one.percent)] for reason, one in scores.unreadable_reasons.items()]
    return table(["unreadable because", "count", "%"], rows)


def _balance_table(scores: Scores) -> str:
    rows = [
        [name, *(f"{row[option]:.1f}" for option in (*OPTIONS, NONE))]
        for name, row in (("answers", scores.balance.answers), ("labels", scores.balance.labels))
    ]
    distance = scores.balance.distance
    note = "" if distance is None else f"\n\n{distance:.1f} % of the votes would have to move to match the labels."
    return table(["", *OPTIONS, NONE], rows) + note


def _verdict_parts(evaluation: Evaluation) -> list[str]:
    """Tables per picture. In mode cot the reasoning names dimensions; in mode direct only the letters are known."""
    pictures = evaluation.scores.pictures
    if evaluation.mode is Mode.COT:
        summary = [
            ("a verdict is stated", pictures.stated),
            ("verdict exactly right", pictures.exact),
            ("normal pictures called normal", pictures.normal_recognised),
            ("normal pictures with a false alarm", pictures.false_alarms),
        ]
    else:
        summary = []
    summary.append(("normal pictures held back by the answer", pictures.normal_held_back))
    intro = _COT_INTRO if evaluation.mode is Mode.COT else _DIRECT_INTRO
    parts = [
        intro,
        table(["", "%", "interval", "n"], [[name, number(s.percent), interval(s), str(s.n)] for name, s in summary]),
        _dimension_table(pictures.dimensions, evaluation.mode),
    ]
    if pictures.kinds:
        parts.append(_kind_table(pictures.kinds, evaluation.mode))
    return parts


def _dimension_table(dimensions: dict[Dimension, DimensionVerdicts], mode: Mode) -> str:
    cot = mode is Mode.COT
    header = ["dimension", *(["named"] if cot else []), "subtle", "clear", "gross", "held back"]
    header += ["false alarm", "precision"] if cot else []
    rows = []
    for dimension, one in dimensions.items():
        severities = [one.by_severity.get(severity) for severity in (1, 2, 3)]
        cells = [_short(None if v is None else v.named if cot else v.held_back) for v in severities]
        row = [dimension.title, *([_short(one.all.named)] if cot else []), *cells, _short(one.all.held_back)]
        rows.append(row + ([_short(one.false_alarms), _short(one.precision)] if cot else []))
    return table(header, rows)


def _locating_parts(found: Locating) -> list[str]:
    rows = [("all issues", found.overall)]
    rows += [(dimension.title, placed) for dimension, placed in found.dimensions.items() if placed.centre.n]
    rows += list(found.kinds.items())
    cells = [
        [
            name,
            *(cell for one in (placed.centre, placed.overlap) for cell in (number(one.percent), interval(one))),
            str(placed.centre.n),
        ]
        for name, placed in rows
    ]
    return [
        _LOCATING_INTRO,
        table(["", "centre", "interval", "overlap", "interval", "n"], cells),
        f"Issues without a box: {percent(found.without_box)}. Boxes that were dropped: {found.dropped_boxes}.",
    ]


def _kind_table(kinds: dict[str, Verdicts], mode: Mode) -> str:
    cot = mode is Mode.COT
    header = ["defect kind", *(["named"] if cot else []), "held back"]
    return table(
        header,
        [[kind, *([_short(one.named)] if cot else []), _short(one.held_back)] for kind, one in kinds.items()],
    )


def reliability_table(before: Reliability | None, after: Reliability | None) -> str:
    """A table with columns without and with calibration; a column that is None is left out."""
    columns = [(name, one) for name, one in (("not calibrated", before), ("calibrated", after)) if one]
    lines: list[tuple[str, Callable[[Reliability], str]]] = [
        ("expected calibration error (ECE)", lambda one: f"{one.expected_calibration_error:.3f}"),
        ("- interval", lambda one: _range(one.expected_calibration_error_interval, " to ")),
        (
            "- by chance alone: mean, one in 20 above",
            lambda one: _range(one.expected_calibration_error_by_chance, ", "),
        ),
        ("Brier score", lambda one: f"{one.brier:.3f}"),
        ("error, all kept", lambda one: f"{100 * one.error:.1f} %"),
        ("error, surest 80 % kept", lambda one: f"{100 * one.error_at_80_coverage:.1f} %"),
        ("area under risk and coverage (AURC)", lambda one: f"{one.area_under_risk_coverage:.3f}"),
    ]
    return table(
        ["", *(name for name, _ in columns)], [[name, *(cell(one) for _, one in columns)] for name, cell in lines]
    )


def _reliability_parts(one: Reliability, uncalibrated: Reliability | None) -> list[str]:
    bins = [[f"{b.mean_confidence:.3f}", f"{b.accuracy:.3f}", str(b.n)] for b in one.bins]
    return [
        _CONFIDENCE_INTRO,
        reliability_table(uncalibrated, one) if uncalibrated else reliability_table(one, None),
        table(["mean confidence", "right", "n"], bins),
    ]


def _range(pair: tuple[float, float] | None, between: str) -> str:
    return "-" if pair is None else f"{pair[0]:.3f}{between}{pair[1]:.3f}"


def _short(one: Share | None) -> str:
    return "-" if one is None or one.percent is None else f"{one.percent:.1f} ({one.n})"
