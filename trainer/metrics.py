"""Metrics of a model's answers: pure functions from judged samples to numbers (paper, section 5.1).

The score is the percentage of samples answered correctly. A correct answer need not be complete: it is correct when
**every** option that it names is in the label, so one usable option is enough. `N` is correct only for the label `N`.
The reward of training (`reward`, paper eq. 7) is stricter and asks for all usable options.

Beyond the paper, this module reports confidence intervals, unreadable answers by reason, precision and recall of `N`,
the balance between positions, and the verdicts per picture (`picture_verdicts`). In the intervals, several samples of
one product count as fewer; see `trainer.products`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypedDict

from pydantic import BaseModel, ConfigDict

from screening.answer import Reason, Unreadable
from screening.intervals import wilson
from screening.task import NONE, OPTIONS, Dimension, Options
from trainer.judged import Judged
from trainer.picture_verdicts import PictureVerdicts, picture_verdicts
from trainer.products import product_totals
from trainer.records import Sample
from trainer.shares import Share, share_by_product, share_of

RANDOM_CHOICES = len(OPTIONS) + 1
"""Number of answers that blind guessing chooses from: A, B, C, D and N."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Table):
    """The paper's score over some samples, and the score of blind guessing on the same samples."""

    correct: Share
    baseline: float | None
    """Score of blind guessing in percent; see `random_baseline`."""


class WeightedScore(_Table):
    """The paper's score over all questions from which the samples were drawn, estimated with their weights."""

    percent: float
    low: float
    high: float
    n: int
    effective: float
    """Number of equally weighted samples that would say as much; the interval is Wilson's for this number."""


class NoneClass(_Table):
    """Precision and recall of the answer `N` (no picture may be shown). An unreadable answer is not an `N`."""

    precision: Share
    """Share of the answers `N` whose label is `N`."""
    recall: Share
    """Share of the samples with label `N` that were answered `N`."""


class Balance(_Table):
    """Distribution of answers and labels over A, B, C, D, N, in percent; the two agree if there is no position bias.

    Every sample has one vote, divided evenly among its options (`AC` is half A, half C), so each distribution sums to
    100. Unreadable answers have no vote.
    """

    answers: dict[str, float]
    labels: dict[str, float]
    distance: float | None
    """Total variation distance between the two distributions: the percentage of votes that would have to move. None
    if no answer is readable."""


class Scores(_Table):
    """All scores of one model in one mode on one data set."""

    confidence_level: float
    overall: Score
    weighted: WeightedScore | None = None
    """The overall score, weighted by inverse inclusion probability; None if all samples have the same weight."""
    dimensions: dict[Dimension, Score]
    """Score per dimension, over the samples in which at least one picture has the issue; see `shows`."""
    choice: Share
    """Samples for which the service's single choice is in the label. Never below `overall`, because the choice is one
    of the named options. n is 0 if the choice is unknown, for example for an endpoint without probabilities."""
    metrics: dict[str, Share]
    """The metrics of `METRICS`, and those that the evaluation was given."""
    unreadable: Share
    unreadable_reasons: dict[Reason, Share]
    none: NoneClass
    balance: Balance
    pictures: PictureVerdicts


def random_baseline(labels: Sequence[Options]) -> float | None:
    """Percentage that blind guessing among A, B, C, D, N gets right: mean label length / 5, where `N` has length 1.

    In the paper, a mean length of 1.7136 gives 34.27 %. None if there are no labels.
    """
    if not labels:
        return None
    return 100 * sum(max(1, len(label)) for label in labels) / len(labels) / RANDOM_CHOICES


class LabelStatistics(TypedDict):
    """Statistics of the labels of some samples. Without labels, the means and shares are None."""

    labels: dict[str, int]
    """Number of samples per label, such as `AC` or `N`."""
    mean_label_length: float | None
    """Mean length of the labels; `N` has length 1 (paper, section 5.1)."""
    random_baseline: float | None
    """Score of blind guessing in percent; see `random_baseline`."""
    share_of_n: float | None
    """Share of the labels that are `N`, 0 to 1."""


def label_statistics(labels: Sequence[str]) -> LabelStatistics:
    """Compute the statistics of labels as `trainer.labels` writes them, rounded for reports."""
    baseline = random_baseline([frozenset(label) - {NONE} for label in labels])
    return LabelStatistics(
        labels=dict(sorted(Counter(labels).items())),
        mean_label_length=round(fmean(map(len, labels)), 4) if labels else None,
        random_baseline=None if baseline is None else round(baseline, 2),
        share_of_n=round(labels.count(NONE) / len(labels), 4) if labels else None,
    )


def shows(sample: Sample, dimension: Dimension) -> bool:
    """Whether a sample counts for a dimension's score: at least one of its pictures has that issue.

    The paper does not say how it assigns samples to dimensions, but its random baselines fit this rule. A sample with
    only a label counts for no dimension.
    """
    return any(dimension in picture.dimensions for picture in sample.generated)


def score(judged: Sequence[Judged], level: float = 0.95) -> Score:
    """Compute the paper's score and its random baseline over the given samples."""
    return Score(
        correct=share_of(judged, lambda one: one.correct, level),
        baseline=random_baseline([one.sample.options for one in judged]),
    )


def weighted_score(judged: Sequence[Judged], level: float = 0.95) -> WeightedScore | None:
    """Estimate the score over all questions from samples that were drawn with unequal probabilities.

    The estimate is Hájek's, Σwy / Σw. Its variance is that of the linearised ratio, Σ(w(y - p))² / (Σw)² · n / (n - 1)
    (Särndal, Swensson and Wretman 1992, section 5.7). The interval is Wilson's for the number of equally weighted
    samples with this variance (Korn and Graubard 1998), which stays within 0 and 100 %. Where a product has several
    samples, n is the number of products, and w(y - p) is summed over each of them before it is squared.

    Returns:
        None if all weights are equal.
    """
    weights = [one.sample.weight or 1.0 for one in judged]
    if len(set(weights)) < 2:
        return None
    products = [one.product for one in judged]
    n, clusters, total = len(judged), len(set(products)), sum(weights)
    p = sum(weight for weight, one in zip(weights, judged, strict=True) if one.correct) / total
    deviations = [weight * (one.correct - p) for weight, one in zip(weights, judged, strict=True)]
    squares = sum(deviation**2 for deviation in product_totals(deviations, products))
    variance = squares / total**2 * clusters / (clusters - 1) if clusters > 1 else 0.0
    # If all are right or all are wrong, the variance is 0 and says nothing; Kish's number uses the weights alone.
    kish = total**2 / sum(weight * weight for weight in product_totals(weights, products))
    effective = p * (1 - p) / variance if variance else kish
    effective = min(effective, float(n))
    low, high = wilson(p * effective, effective, level)
    return WeightedScore(percent=100 * p, low=100 * low, high=100 * high, n=n, effective=effective)


def none_class(judged: Sequence[Judged], level: float = 0.95) -> NoneClass:
    """Compute precision and recall of `N`."""
    answered = [one for one in judged if one.options == frozenset()]
    labelled = [one for one in judged if not one.sample.options]
    return NoneClass(
        precision=share_of(answered, lambda one: not one.sample.options, level),
        recall=share_of(labelled, lambda one: one.options == frozenset(), level),
    )


def balance(judged: Sequence[Judged]) -> Balance:
    """Compute the distribution of answers and labels over the five choices."""
    answers = _votes(one.options for one in judged if one.options is not None)
    labels = _votes(one.sample.options for one in judged)
    distance = sum(abs(answers[choice] - labels[choice]) for choice in labels) / 2 if any(answers.values()) else None
    return Balance(answers=answers, labels=labels, distance=distance)


Metric = Callable[[Judged], bool | None]
"""A question about one judged sample. The metric is the share of yes among the samples with an answer; None leaves a
sample out. So every metric has an interval, and two models can be compared by it."""


def exact_match(judged: Judged) -> bool:
    """Whether the answer is the whole label and nothing else."""
    return judged.options == judged.sample.options


METRICS: Mapping[str, Metric] = {"exact_match": exact_match}
"""Name → metric, in every evaluation. docs/how-to/add-a-metric.md says how to add one."""


def metric_share(judged: Sequence[Judged], metric: Metric, level: float = 0.95) -> Share:
    """Share of the samples for which a metric says yes, among those for which it says anything."""
    answers = [(answer, one.product) for one in judged if (answer := metric(one)) is not None]
    return share_by_product([answer for answer, _ in answers], [product for _, product in answers], level)


def evaluate_scores(judged: Sequence[Judged], level: float = 0.95, metrics: Mapping[str, Metric] = METRICS) -> Scores:
    """All scores of one evaluation."""
    unreadable = [one.result.reason for one in judged if isinstance(one.result, Unreadable)]
    return Scores(
        confidence_level=level,
        overall=score(judged, level),
        weighted=weighted_score(judged, level),
        dimensions={d: score([one for one in judged if shows(one.sample, d)], level) for d in Dimension},
        choice=share_of(judged if _choices_known(judged) else [], lambda one: one.choice_correct, level),
        metrics={name: metric_share(judged, metric, level) for name, metric in metrics.items()},
        unreadable=share_of(judged, lambda one: isinstance(one.result, Unreadable), level),
        unreadable_reasons={
            reason: share_of(judged, _unreadable_for(reason), level) for reason, _ in Counter(unreadable).most_common()
        },
        none=none_class(judged, level),
        balance=balance(judged),
        pictures=picture_verdicts(judged, level),
    )


def _unreadable_for(reason: Reason) -> Callable[[Judged], bool]:
    return lambda one: isinstance(one.result, Unreadable) and one.result.reason == reason


def _choices_known(judged: Iterable[Judged]) -> bool:
    return all(one.choice is not None for one in judged if one.options is not None)


def _votes(answers: Iterable[Options]) -> dict[str, float]:
    """Percent of votes per choice. Every answer has one vote, divided evenly among its options."""
    votes = dict.fromkeys((*OPTIONS, NONE), 0.0)
    voters = 0
    for options in answers:
        voters += 1
        for option in options or {NONE}:
            votes[option] += 1 / max(1, len(options))
    return {option: 100 * vote / max(1, voters) for option, vote in votes.items()}
