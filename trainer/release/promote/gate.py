"""Decides whether a version is good enough, and not worse than the version in production. Pure functions of answers.

There are two kinds of criteria. *Floors* apply to every version. Criteria *against production* test non-inferiority:
both versions answered the same samples, and the one-sided 95 % bound of the paired difference must stay within a
margin. So a version does not pass by chance: it fails if the test set is too small to show that it is not worse.

Where several samples show the same product, the bounds are those of fewer samples (`trainer.products`), and the
bootstrap draws whole products.

- Scores, choices, `N` recall and unreadable answers: Newcombe's bound for paired proportions
  (`trainer.evaluation.compare.paired`) at twice the one-sided risk.
- `N` precision: the percentile of a paired bootstrap with a fixed seed (B. Efron, R. Tibshirani, An Introduction to the
  Bootstrap, 1993, chapter 13), because its denominator, the number of `N` answers, differs between the versions.
- Position and calibration: the plain difference, with a wide margin. Both are distances from an ideal, and resampling
  would bias them away from it.
- Floors of the scores: the Wilson bound must lie above the score of blind guessing on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from screening.answer import Answer
from screening.task import NONE, STANDARD_DIMENSIONS, Dimension
from trainer.evaluation.compare.paired import Paired, paired
from trainer.evaluation.compare.pairs import Pairs
from trainer.evaluation.evaluate.predictions import Prediction
from trainer.evaluation.evaluate.result import Evaluation
from trainer.judged import Judged
from trainer.metrics import Score, balance, evaluate_scores, none_class, shows
from trainer.products import product_totals
from trainer.records import Sample
from trainer.release.promote.limits import Limits

RESAMPLES = 2000
SEED = 20260101

Statistic = Literal["paired bound", "bootstrap bound", "difference", "Wilson bound", "value"]
Right = Callable[[Judged], bool]


class Criterion(BaseModel):
    """One row of the gate's table, in percent and percentage points; the calibration error is between 0 and 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    against_production: bool
    candidate: float | None
    production: float | None
    """None for a floor."""
    statistic: Statistic
    measured: float | None
    """The value that is compared with the limit. None if it cannot be measured: then the criterion is not met, unless
    only production's value is missing."""
    limit: float
    at_least: bool
    """Whether the limit is a lower one."""
    n: int
    """Number of samples or answers that were measured."""
    passed: bool


LOST_PLACES = Criterion(
    name="says where issues are",
    against_production=True,
    candidate=0.0,
    production=100.0,
    statistic="value",
    measured=0.0,
    limit=100.0,
    at_least=True,
    n=0,
    passed=False,
)
"""Not met by a candidate that cannot be asked with `locate`, if production can: services would then refuse such
requests. In other cases the gate has no such criterion."""


def measure_criteria(
    pairs: Pairs,
    limits: Limits,
    *,
    first: bool,
    dimensions: Collection[Dimension] = STANDARD_DIMENSIONS,
    lost: Collection[Dimension] = (),
) -> list[Criterion]:
    """Measure every criterion and compare it with its limit.

    Args:
        pairs: production's answers (`before`) and the candidate's (`after`), with their samples.
        first: no version is in production. Only the floors count, and `before` is not read.
        dimensions: those that have criteria of their own, see `shown_dimensions`.
        lost: the same of those that production was trained on and the candidate was not. They have no floors.
    """
    rows = [(pair.sample, pair.before, pair.after) for pair in pairs.pairs if pair.sample is not None]
    new = [_judged(sample, after) for sample, _, after in rows]
    floors = list(_floors(new, pairs.after, limits, dimensions))
    if first:
        return floors
    old = [_judged(sample, before) for sample, before, _ in rows]
    return floors + list(_against_production(old, new, pairs, limits, (*dimensions, *lost)))


def _judged(sample: Sample, prediction: Prediction) -> Judged:
    return Judged(sample, prediction.result, prediction.choice)


def _floors(
    new: Sequence[Judged], evaluation: Evaluation, limits: Limits, dimensions: Collection[Dimension]
) -> Iterator[Criterion]:
    # The lower end of the two-sided interval at 2 · level - 1 is the one-sided bound at `level`.
    floors, scores = limits.floors, evaluate_scores(new, 2 * limits.level - 1)
    yield _above_guessing("score", scores.overall)
    for dimension in dimensions:
        yield _above_guessing(f"score, {dimension.title}", scores.dimensions[dimension])
    none = scores.none
    yield _floor("N precision", none.precision.percent, floors.none_precision, none.precision.n)
    yield _floor("N recall", none.recall.percent, floors.none_recall, none.recall.n)
    yield _floor("unreadable", scores.unreadable.percent, floors.unreadable, scores.unreadable.n, at_least=False)
    yield _floor("position of choices", position(new), floors.position, len(new), at_least=False)
    yield _floor("calibration error", _calibration(evaluation, new), floors.calibration, len(new), at_least=False)


def _above_guessing(name: str, score: Score) -> Criterion:
    measured, limit = score.correct.low, score.baseline or 0.0
    return Criterion(
        name=name,
        against_production=False,
        candidate=score.correct.percent,
        production=None,
        statistic="Wilson bound",
        measured=measured,
        limit=limit,
        at_least=True,
        n=score.correct.n,
        passed=measured is not None and measured > limit,
    )


def _floor(name: str, value: float | None, limit: float, n: int, *, at_least: bool = True) -> Criterion:
    return Criterion(
        name=name,
        against_production=False,
        candidate=value,
        production=None,
        statistic="value",
        measured=value,
        limit=limit,
        at_least=at_least,
        n=n,
        passed=_within(value, limit, at_least=at_least),
    )


def _against_production(
    old: Sequence[Judged], new: Sequence[Judged], pairs: Pairs, limits: Limits, dimensions: Collection[Dimension]
) -> Iterator[Criterion]:
    margins, level = limits.margins, limits.level
    both = list(zip(old, new, strict=True))

    def shares(
        name: str, holds: Right, margin: float, among: Right = lambda _: True, *, more: bool = True
    ) -> Criterion:
        asked = [(one, other) for one, other in both if among(one)]
        counts = paired([(holds(one), holds(other)) for one, other in asked], [one.product for one, _ in asked])
        return _paired(name, counts, margin, level, more_is_better=more)

    yield shares("score", lambda one: one.correct, margins.overall)
    for dimension in dimensions:
        yield shares(f"score, {dimension.title}", lambda one: one.correct, margins.dimension, _showing(dimension))
    yield shares("choice", lambda one: one.choice_correct, margins.overall)
    yield _precision(old, new, margins.none_precision, level)
    yield shares("N recall", _says_none, margins.none_recall, lambda one: not one.sample.options)
    yield shares("unreadable", lambda one: one.options is None, margins.unreadable, more=False)
    yield _difference("position of choices", position(old), position(new), margins.position, len(new))
    errors = _calibration(pairs.before, old), _calibration(pairs.after, new)
    yield _difference("calibration error", *errors, margins.calibration, len(new))


def _paired(name: str, counts: Paired, margin: float, level: float, *, more_is_better: bool) -> Criterion:
    """Compare the one-sided bound of the difference, which is an end of the two-sided interval at 2 · level - 1."""
    low, high = counts.bounds(2 * level - 1) or (None, None)
    bound = low if more_is_better else high
    measured = None if bound is None else 100 * bound
    return _compared(
        name, "paired bound", counts.before, counts.after, measured, margin, counts.n, at_least=more_is_better
    )


def _precision(old: Sequence[Judged], new: Sequence[Judged], margin: float, level: float) -> Criterion:
    before, after = none_class(old).precision, none_class(new).precision
    label = np.array([not one.sample.options for one in new])
    said = [np.array([_says_none(one) for one in side]) for side in (old, new)]
    measured = bootstrap_bound(label, *said, level=level, products=[one.product for one in new])
    return _compared(
        "N precision", "bootstrap bound", before.percent, after.percent, measured, margin, after.n, at_least=True
    )


def bootstrap_bound(
    label: np.ndarray, old: np.ndarray, new: np.ndarray, *, level: float, products: Sequence[str] | None = None
) -> float | None:
    """Lower one-sided bound of the difference in precision, new - old, in percentage points.

    Args:
        label: whether the label of each sample is `N`.
        old: whether the old version answered `N`, per sample.
        new: whether the new version did.
        products: the product of each sample, for resamples of whole products (A. C. Davison, D. V. Hinkley, Bootstrap
            Methods and their Application, 1997, section 3.8); None if each sample has its own.

    Returns:
        None if one of the two never answers `N`.
    """
    if not (old.any() and new.any()):
        return None
    named: Sequence[Hashable] = range(len(label)) if products is None else products
    # One row per product: samples for which each version said `N`, and those for which it was right to.
    counts = np.array([product_totals(flags, named) for flags in (old, label & old, new, label & new)]).T
    rng, differences = np.random.default_rng(SEED), []
    for _ in range(RESAMPLES):
        before, before_right, after, after_right = counts[rng.integers(0, len(counts), len(counts))].sum(0)
        if before and after:
            differences.append(after_right / after - before_right / before)
    return 100 * float(np.quantile(differences, 1 - level)) if differences else None


def _difference(name: str, before: float | None, after: float | None, margin: float, n: int) -> Criterion:
    measured = None if before is None or after is None else after - before
    return _compared(name, "difference", before, after, measured, margin, n, at_least=False)


def _compared(
    name: str,
    statistic: Statistic,
    before: float | None,
    after: float | None,
    measured: float | None,
    margin: float,
    n: int,
    *,
    at_least: bool,
) -> Criterion:
    limit = -margin if at_least else margin
    nothing_to_lose = before is None and after is not None
    return Criterion(
        name=name,
        against_production=True,
        candidate=after,
        production=before,
        statistic=statistic,
        measured=measured,
        limit=limit,
        at_least=at_least,
        n=n,
        passed=nothing_to_lose or _within(measured, limit, at_least=at_least),
    )


def position(judged: Sequence[Judged]) -> float | None:
    """Percentage of choices that would have to change for A, B, C, D, N to be as frequent as in the labels.

    See `trainer.metrics.Balance`. It is computed from the choices and not from the answers, because a model may always
    prefer the first of several good pictures.
    """
    return balance(
        [
            Judged(one.sample, Answer(frozenset(one.choice) - {NONE}, None, ()) if one.choice else one.result)
            for one in judged
        ]
    ).distance


def _calibration(evaluation: Evaluation, judged: Sequence[Judged]) -> float | None:
    """The expected calibration error. None if it is unknown, and if no answer is readable: then each has the confidence
    0 and is wrong, so the error of a useless version would be 0."""
    if evaluation.reliability is None or all(one.options is None for one in judged):
        return None
    return evaluation.reliability.expected_calibration_error


def shown_dimensions(pairs: Pairs, trained: Collection[Dimension]) -> tuple[Dimension, ...]:
    """Those of the dimensions that a sample of the test set shows. Others cannot be measured."""
    samples = [pair.sample for pair in pairs.pairs if pair.sample is not None]
    return tuple(dimension for dimension in trained if any(shows(sample, dimension) for sample in samples))


def _showing(dimension: Dimension) -> Right:
    return lambda one: shows(one.sample, dimension)


def _says_none(one: Judged) -> bool:
    return one.options == frozenset()


def _within(value: float | None, limit: float, *, at_least: bool) -> bool:
    return value is not None and (value >= limit if at_least else value <= limit)
