"""How good a model's answers are: pure functions from judged samples to numbers (paper, section 5.1).

The score is the percentage of samples answered correctly, and correct does not mean complete: a readable answer is
correct when **every** option it names is in the label, so one good option is enough; `N` is correct only for label
`N`. This is not the reward of training (`reward`, paper eq. 7), which asks for all of them.

Beyond the paper: intervals, unreadable answers by reason, `N` as a class of its own, balance between positions, and
the verdicts per picture that the reasoning states. A loss curve does not show which dimension a model is blind to;
the table of verdicts does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from screening.answer import Answer, Reason, Unreadable
from screening.task import NONE, OPTIONS, Dimension, Options
from trainer.records import Generated, Sample

RANDOM_CHOICES = len(OPTIONS) + 1
"""A blind guess picks one of A, B, C, D, N."""


Item = TypeVar("Item")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Share(_Table):
    """`hits` of `n`, as a percentage with its interval; the percentages are None where n is 0."""

    hits: int
    n: int
    percent: float | None
    low: float | None
    high: float | None


class Score(_Table):
    """The paper's score over some samples, beside what blind guessing would score on the same ones."""

    correct: Share
    baseline: float | None
    """Percent; see `random_baseline`."""


class NoneClass(_Table):
    """`N`, no picture may be shown, seen as a class. An unreadable answer is not an `N`."""

    precision: Share
    """Of the answers `N`, those whose label is `N`."""
    recall: Share
    """Of the samples with label `N`, those answered `N`."""


class Balance(_Table):
    """How answers and labels spread over A, B, C, D, N, in percent; a model without position bias has like rows.

    A sample spreads one vote evenly over its options (`AC` is half A, half C), so each row sums to 100. Unreadable
    answers do not vote.
    """

    answers: dict[str, float]
    labels: dict[str, float]
    distance: float | None
    """Total variation distance between the rows: the percentage of votes that would have to move. None where no answer
    is readable."""


class Verdicts(_Table):
    """What the answers say about pictures with one kind of truth.

    `named` is about the reasoning and is empty in direct mode; `held_back` is about the answer and exists in both.
    A picture that the reasoning passes over, or an unreadable answer, names nothing and offers nothing.
    """

    named: Share
    """Pictures whose stated verdict names the dimension in question."""
    held_back: Share
    """Pictures that the answer does not offer. A model that names only its surest option holds back good ones too."""


class DimensionVerdicts(_Table):
    """How one dimension is seen, picture by picture."""

    all: Verdicts
    by_severity: dict[int, Verdicts]
    """1 subtle, 2 clear, 3 gross: severity of the worst defect of this dimension in the picture."""
    false_alarms: Share
    """Of the normal pictures, those whose verdict names this dimension."""
    precision: Share
    """Of the pictures whose verdict names this dimension and whose dimensions are known, those that have it."""


class PictureVerdicts(_Table):
    """The stated verdicts against the truth, over all generated pictures."""

    stated: Share
    """Pictures with a readable verdict."""
    exact: Share
    """Of the pictures whose dimensions are known, those whose verdict names exactly these (none for a normal one)."""
    normal_recognised: Share
    """Of the normal pictures, those called normal."""
    false_alarms: Share
    """Of the normal pictures, those said to have any issue."""
    normal_held_back: Share
    """Of the normal pictures, those that the answer does not offer."""
    dimensions: dict[Dimension, DimensionVerdicts]
    kinds: dict[str, Verdicts]
    """By defect kind, keyed `dimension/kind`, where the data names kinds."""


class Scores(_Table):
    """All of it, for one model, one mode and one data set."""

    confidence_level: float
    overall: Score
    dimensions: dict[Dimension, Score]
    """Over the samples in which at least one picture shows the issue; see `shows`."""
    choice: Share
    """The single choice of the service is in the label. Never below `overall`: it is one of the options named. n is 0
    where the choice behind a readable answer is not known, as behind an endpoint that gives no probabilities."""
    metrics: dict[str, Share]
    """The metrics of `METRICS`, and those that the evaluation was given."""
    unreadable: Share
    unreadable_reasons: dict[Reason, Share]
    none: NoneClass
    balance: Balance
    pictures: PictureVerdicts


@dataclass(frozen=True, slots=True)
class Judged:
    """One sample and what the model's text was read as."""

    sample: Sample
    result: Answer | Unreadable
    choice: str | None = None
    """The one option that the service would give (`screening.confidence`), or `N`; None when unreadable or unknown."""

    @property
    def options(self) -> Options | None:
        """The answer as a set; None when unreadable."""
        return self.result.options if isinstance(self.result, Answer) else None

    @property
    def correct(self) -> bool:
        return correct(self.options, self.sample.options)

    @property
    def choice_correct(self) -> bool:
        """Whether the one picture that would be shown may be shown, or `N` is right."""
        return self.choice is not None and correct(frozenset(self.choice) - {NONE}, self.sample.options)

    def verdict(self, option: str) -> frozenset[Dimension] | None:
        """The dimensions that the reasoning names for one picture; None where it states no verdict."""
        findings = self.result.findings if isinstance(self.result, Answer) else ()
        return next((finding.dimensions for finding in findings if finding.option == option), None)


def correct(options: Options | None, label: Options) -> bool:
    """Whether an answer is correct (paper, section 5.1): not empty, and every option in the label.

    Args:
        options: the answer; the empty set is `N`, None an unreadable text.
        label: the truth; the empty set is `N`.
    """
    if options is None:
        return False
    return options <= label if options else not label


def random_baseline(labels: Sequence[Options]) -> float | None:
    """Percentage that blind guessing of one of A, B, C, D, N gets right: mean label length / 5, `N` having length one.

    The paper: mean length 1.7136 gives 34.27 %. None without labels.
    """
    if not labels:
        return None
    return 100 * sum(max(1, len(label)) for label in labels) / len(labels) / RANDOM_CHOICES


def shows(sample: Sample, dimension: Dimension) -> bool:
    """Whether a sample counts for a dimension's score: at least one of its pictures shows that issue.

    The paper does not say how it assigns samples to dimensions; its random baselines per dimension fit this reading.
    A sample of which only the label is known shows no dimension.
    """
    return any(dimension in picture.dimensions for picture in sample.generated)


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion, between 0 and 1 (E. B. Wilson, JASA 22, 1927; Brown, Cai, DasGupta 2001, eq. 4).

    With z the normal quantile of (1 + level) / 2 and p = hits / n:
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). Unlike p ± z·s it stays useful at p = 0, p = 1 and small n.

    Raises:
        ValueError: n is not positive, hits is not between 0 and n, or level is not between 0 and 1.
    """
    if not (0 <= hits <= n and n > 0 and 0 < level < 1):
        raise ValueError(f"no interval for {hits} of {n} at level {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = hits / n
    centre = p + z * z / (2 * n)
    spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At p = 0 and p = 1 the bound is exact; rounding would leave it a hair inside.
    low = 0.0 if hits == 0 else (centre - spread) / scale
    high = 1.0 if hits == n else (centre + spread) / scale
    return low, high


def share(hits: int, n: int, level: float = 0.95) -> Share:
    """A proportion with its interval, in percent."""
    if n == 0:
        return Share(hits=0, n=0, percent=None, low=None, high=None)
    low, high = wilson(hits, n, level)
    return Share(hits=hits, n=n, percent=100 * hits / n, low=100 * low, high=100 * high)


def score(judged: Sequence[Judged], level: float = 0.95) -> Score:
    """The paper's score and its random baseline over the given samples."""
    return Score(
        correct=_share_of(judged, lambda one: one.correct, level),
        baseline=random_baseline([one.sample.options for one in judged]),
    )


def none_class(judged: Sequence[Judged], level: float = 0.95) -> NoneClass:
    """Precision and recall of `N`."""
    answered = [one for one in judged if one.options == frozenset()]
    labelled = [one for one in judged if not one.sample.options]
    return NoneClass(
        precision=_share_of(answered, lambda one: not one.sample.options, level),
        recall=_share_of(labelled, lambda one: one.options == frozenset(), level),
    )


def balance(judged: Sequence[Judged]) -> Balance:
    """How answers and labels spread over the five choices."""
    answers = _votes(one.options for one in judged if one.options is not None)
    labels = _votes(one.sample.options for one in judged)
    distance = sum(abs(answers[choice] - labels[choice]) for choice in labels) / 2 if any(answers.values()) else None
    return Balance(answers=answers, labels=labels, distance=distance)


def picture_verdicts(judged: Sequence[Judged], level: float = 0.95) -> PictureVerdicts:
    """Verdicts of the reasoning, and pictures held back by the answer, against the truth."""
    seen = [
        _Seen(picture, one.verdict(picture.option), one.options) for one in judged for picture in one.sample.generated
    ]
    normal = [picture for picture in seen if picture.truth.usable]
    stated = [picture for picture in seen if picture.verdict is not None]
    known = [picture for picture in seen if picture.truth.dimensions_known]
    return PictureVerdicts(
        stated=share(len(stated), len(seen), level),
        exact=_share_of(known, lambda picture: picture.verdict == picture.truth.dimensions, level),
        normal_recognised=_share_of(normal, lambda picture: picture.verdict == frozenset(), level),
        false_alarms=_share_of(normal, lambda picture: bool(picture.verdict), level),
        normal_held_back=_share_of(normal, lambda picture: picture.held_back, level),
        dimensions={dimension: _dimension_verdicts(seen, dimension, level) for dimension in Dimension},
        kinds=_kinds(seen, level),
    )


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
    answers = [answer for one in judged if (answer := metric(one)) is not None]
    return share(sum(answers), len(answers), level)


def evaluate_scores(judged: Sequence[Judged], level: float = 0.95, metrics: Mapping[str, Metric] = METRICS) -> Scores:
    """All scores of one evaluation."""
    unreadable = [one.result.reason for one in judged if isinstance(one.result, Unreadable)]
    return Scores(
        confidence_level=level,
        overall=score(judged, level),
        dimensions={d: score([one for one in judged if shows(one.sample, d)], level) for d in Dimension},
        choice=_share_of(judged if _choices_known(judged) else [], lambda one: one.choice_correct, level),
        metrics={name: metric_share(judged, metric, level) for name, metric in metrics.items()},
        unreadable=share(len(unreadable), len(judged), level),
        unreadable_reasons={
            reason: share(count, len(judged), level) for reason, count in Counter(unreadable).most_common()
        },
        none=none_class(judged, level),
        balance=balance(judged),
        pictures=picture_verdicts(judged, level),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """One generated picture: its truth, the verdict stated about it, and the answer it stands in."""

    truth: Generated
    verdict: frozenset[Dimension] | None
    answer: Options | None

    @property
    def held_back(self) -> bool:
        return self.truth.option not in (self.answer or frozenset())

    def names(self, dimension: Dimension) -> bool:
        return self.verdict is not None and dimension in self.verdict


def _dimension_verdicts(seen: Sequence[_Seen], dimension: Dimension, level: float) -> DimensionVerdicts:
    having = [picture for picture in seen if dimension in picture.truth.dimensions]
    severities = sorted({picture.truth.severity_of(dimension) for picture in having})
    return DimensionVerdicts(
        all=_verdicts(having, dimension, level),
        by_severity={
            severity: _verdicts(
                [picture for picture in having if picture.truth.severity_of(dimension) == severity], dimension, level
            )
            for severity in severities
        },
        false_alarms=_share_of([p for p in seen if p.truth.usable], lambda picture: picture.names(dimension), level),
        precision=_share_of(
            [picture for picture in seen if picture.names(dimension) and picture.truth.dimensions_known],
            lambda picture: dimension in picture.truth.dimensions,
            level,
        ),
    )


def _kinds(seen: Sequence[_Seen], level: float) -> dict[str, Verdicts]:
    groups: dict[tuple[Dimension, str], list[_Seen]] = {}
    for picture in seen:
        for dimension, kind in sorted({(defect.dimension, defect.kind) for defect in picture.truth.defects}):
            groups.setdefault((dimension, kind), []).append(picture)
    return {
        f"{dimension}/{kind}": _verdicts(groups[dimension, kind], dimension, level)
        for dimension in Dimension
        for kind in sorted(kind for owner, kind in groups if owner is dimension)
    }


def _verdicts(pictures: Sequence[_Seen], dimension: Dimension, level: float) -> Verdicts:
    return Verdicts(
        named=_share_of(pictures, lambda picture: picture.names(dimension), level),
        held_back=_share_of(pictures, lambda picture: picture.held_back, level),
    )


def _share_of(items: Sequence[Item], holds: Callable[[Item], bool], level: float) -> Share:
    return share(sum(map(holds, items)), len(items), level)


def _choices_known(judged: Iterable[Judged]) -> bool:
    return all(one.choice is not None for one in judged if one.options is not None)


def _votes(answers: Iterable[Options]) -> dict[str, float]:
    """Each answer's one vote, spread evenly over its options: percent per choice, summing to 100 unless empty."""
    votes = dict.fromkeys((*OPTIONS, NONE), 0.0)
    voters = 0
    for options in answers:
        voters += 1
        for option in options or {NONE}:
            votes[option] += 1 / max(1, len(options))
    return {option: 100 * vote / max(1, voters) for option, vote in votes.items()}
