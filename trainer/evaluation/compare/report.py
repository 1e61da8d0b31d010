"""Makes the result of a comparison: a file for programs (`comparison.json`) and a page for people (`comparison.md`)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Answer, Mode, Reason, parse
from screening.task import Dimension
from trainer.evaluation.compare.paired import LEVEL, Paired, paired
from trainer.evaluation.compare.pairs import Pair, Pairs
from trainer.evaluation.evaluate.predictions import Prediction
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, EvaluatedData, EvaluatedEndpoint
from trainer.metrics import shows
from trainer.products import counted
from trainer.runs.markdown import cell_text, number, table

COMPARISON_NAME = "comparison.json"
TABLE_NAME = "comparison.md"

_INTRO = """\
`difference`: after - before in percentage points, with Newcombe's {level:.0%} interval for paired proportions (1998,
method 10). `worse`: samples that were right and are wrong now; `better`: the other way round. `p`: McNemar's exact
test, two-sided; with few flips the interval can leave out 0 while p is large, and then p decides. The rows share
samples, and p is not corrected for multiple comparisons."""

_ALIKE = """\
Answers about one product are alike. So its samples count as fewer in the interval (effective number of samples, Rao and
Scott 1992), and where a product repeats, `p` is of the exact randomization test over whole products (Fisher 1935), also
two-sided."""

_NO_DIMENSIONS = "The dimensions of the samples are unknown because `--data` was not given."


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Direction(StrEnum):
    """The direction in which an answer flipped."""

    WORSE = "right_to_wrong"
    BETTER = "wrong_to_right"

    @property
    def title(self) -> str:  # type: ignore[override]
        """Text for people: `right → wrong`."""
        return self.value.replace("_to_", " → ")


class GivenAnswer(_Record):
    """The answer of one model."""

    options: str | None
    """Letters in order, or `N`; None if the answer is unreadable."""
    unreadable: Reason | None
    choice: str | None
    confidence: float | None
    reasoning: str | None
    """None in mode direct and if the answer is unreadable."""
    text: str
    """The whole output."""

    @classmethod
    def of(cls, prediction: Prediction, mode: Mode) -> Self:
        """Make it from an evaluation's log, with the reasoning parsed from the text."""
        read = parse(prediction.text, mode)
        return cls(
            options=prediction.options,
            unreadable=prediction.unreadable.reason if prediction.unreadable else None,
            choice=prediction.choice,
            confidence=prediction.confidence,
            reasoning=read.reasoning if isinstance(read, Answer) else None,
            text=prediction.text,
        )

    @property
    def title(self) -> str:
        """The letters, or why the answer is unreadable."""
        return self.options or f"unreadable: {self.unreadable}"


class Flip(_Record):
    """A sample that one model gets right and the other does not."""

    id: str
    direction: Direction
    label: str
    dimensions: tuple[Dimension, ...] | None
    """Dimensions that at least one of its pictures shows; None if no data directory was given."""
    before: GivenAnswer
    after: GivenAnswer


class Comparison(_Record):
    """Everything in `comparison.json`."""

    format: Literal[1] = 1
    mode: Mode
    locate: bool = Field(False, exclude_if=lambda locate: not locate)
    """Whether the models were asked where the issues are."""
    data: EvaluatedData
    before: EvaluatedCheckpoint | EvaluatedEndpoint
    after: EvaluatedCheckpoint | EvaluatedEndpoint
    confidence_level: float
    overall: Paired
    dimensions: dict[Dimension, Paired] | None
    """Over the samples that show the dimension (`trainer.metrics.shows`); None if no data directory was given."""
    flips: list[Flip]
    """Flipped samples, in the order of the data."""

    @property
    def asked(self) -> str:
        """The mode, and whether the models were also asked where the issues are."""
        return f"{self.mode} with boxes" if self.locate else str(self.mode)


def compare(pairs: Pairs) -> Comparison:
    """Compute a comparison from paired answers."""
    rows = [(pair, pair.right) for pair in pairs.pairs]
    known = all(pair.sample for pair in pairs.pairs)
    return Comparison(
        mode=pairs.before.mode,
        locate=pairs.before.locate,
        data=pairs.before.data,
        before=pairs.before.model,
        after=pairs.after.model,
        confidence_level=LEVEL,
        overall=_paired(pairs.pairs),
        dimensions={
            dimension: _paired(pair for pair in pairs.pairs if pair.sample and shows(pair.sample, dimension))
            for dimension in Dimension
        }
        if known
        else None,
        flips=[_flip(pair, right[0], pairs.before.mode) for pair, right in rows if right[0] != right[1]],
    )


def _paired(pairs: Iterable[Pair]) -> Paired:
    some = list(pairs)
    return paired([pair.right for pair in some], [pair.product for pair in some])


def render(comparison: Comparison) -> str:
    """The comparison as Markdown whose tables also line up as plain text."""
    one, data = comparison, comparison.data
    limited = f" (the first of {data.samples})" if data.evaluated < data.samples else ""
    parts = [
        f"# {one.before.title} → {one.after.title}, {one.asked}: {_points(one.overall.difference)} points",
        f"{counted(data.evaluated, one.overall.products)}{limited}.\n"
        f"before {one.before.digest}\nafter {one.after.digest}\ndata {data.digest}",
        _INTRO.format(level=one.confidence_level),
        _ALIKE if one.overall.products is not None else "",
        _scores(one),
        "" if one.dimensions else _NO_DIMENSIONS,
        f"## Flips\n\n{one.overall.right_to_wrong} right → wrong, {one.overall.wrong_to_right} wrong → right.",
        _flips(one) if one.flips else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def named_rows(comparison: Comparison) -> list[tuple[str, Paired]]:
    """The rows of table and plot: overall, and then the dimensions if they are known."""
    dimensions = comparison.dimensions or {}
    return [("overall", comparison.overall), *((dimension.title, row) for dimension, row in dimensions.items())]


def _flip(pair: Pair, was_right: bool, mode: Mode) -> Flip:
    sample = pair.sample
    return Flip(
        id=pair.before.id,
        direction=Direction.WORSE if was_right else Direction.BETTER,
        label=pair.before.label,
        dimensions=tuple(d for d in Dimension if shows(sample, d)) if sample and sample.dimensions_known else None,
        before=GivenAnswer.of(pair.before, mode),
        after=GivenAnswer.of(pair.after, mode),
    )


def _scores(comparison: Comparison) -> str:
    return table(
        ["", "before %", "after %", "difference", "interval", "worse", "better", "p", "n"],
        [
            [
                name,
                number(row.before),
                number(row.after),
                _points(row.difference),
                "-" if row.low is None or row.high is None else f"{row.low:+.1f} to {row.high:+.1f}",
                str(row.right_to_wrong),
                str(row.wrong_to_right),
                _probability(row.p_value),
                str(row.n),
            ]
            for name, row in named_rows(comparison)
        ],
    )


def _flips(comparison: Comparison) -> str:
    return table(
        ["sample", "flip", "label", "before", "after", "dimensions"],
        [
            [
                cell_text(flip.id),
                flip.direction.title,
                flip.label,
                flip.before.title,
                flip.after.title,
                "-" if flip.dimensions is None else ", ".join(d.short for d in flip.dimensions) or "none",
            ]
            for flip in comparison.flips
        ],
    )


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _probability(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
