"""Reads two evaluation directories side by side, without changing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from screening.answer import Answer
from screening.errors import UserError
from screening.task import NONE, Options
from trainer.data_directory import data_digest, read_samples
from trainer.evaluation.evaluate.predictions import PREDICTIONS_NAME, Prediction, read_predictions
from trainer.evaluation.evaluate.result import Evaluation, read_evaluation
from trainer.judged import correct
from trainer.products import product_of
from trainer.records import Sample


class CompareError(UserError):
    """The two evaluations cannot be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample, answered twice."""

    before: Prediction
    after: Prediction
    sample: Sample | None
    """The sample with the truth about its pictures; None if no data directory was given."""

    @property
    def right(self) -> tuple[bool, bool]:
        """Whether the answer was right before, and after."""
        return _right(self.before), _right(self.after)

    @property
    def product(self) -> str:
        """The sample's product; without a data directory, that of the log."""
        return product_of(self.sample) if self.sample else self.before.product


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two evaluations of the same samples."""

    before: Evaluation
    after: Evaluation
    pairs: Sequence[Pair]
    """Pairs of answers, in the order of the data."""


def read_pairs(before: Path, after: Path, data: Path | None) -> Pairs:
    """Read two evaluations and put their answers side by side.

    Args:
        data: the data directory that both were made on.

    Raises:
        EvaluationError: an evaluation has not ended, or another version of the trainer wrote it.
        DataError: the data directory cannot be used.
        CompareError: they differ in data, mode or number of samples, or a log is not the one that was scored.
    """
    first, second = read_evaluation(before), read_evaluation(after)
    for what, one, other in (
        ("data", first.data.digest, second.data.digest),
        ("mode", first.asked, second.asked),
        ("number of samples", first.data.evaluated, second.data.evaluated),
    ):
        if one != other:
            raise CompareError(
                f"{before} and {after} differ in their {what} ({one} and {other}). Evaluate both with the same options"
            )
    samples = _samples(data, first) if data else None
    order = [sample.id for sample in samples] if samples else None
    old, new = _answers(before, first, order), _answers(after, second, order)
    if old.keys() != new.keys():
        raise CompareError(f"{before} and {after} answered different samples. Evaluate both with the same options")
    if changed := [name for name in old if old[name].label != new[name].label]:
        raise CompareError(f"{before} and {after} give sample {changed[0]!r} different labels. Evaluate both again")
    by_id = {sample.id: sample for sample in samples or ()}
    return Pairs(first, second, [Pair(old[name], new[name], by_id.get(name)) for name in old])


def _samples(data: Path, evaluation: Evaluation) -> list[Sample]:
    """The samples that were evaluated."""
    samples = read_samples(data)
    if (digest := data_digest(data, samples, check=False)) != evaluation.data.digest:
        raise CompareError(
            f"{data} has the digest {digest}, but the evaluations are of {evaluation.data.digest}. Give their "
            "data directory"
        )
    return samples[: evaluation.data.evaluated]


def _answers(directory: Path, evaluation: Evaluation, order: Sequence[str] | None) -> Mapping[str, Prediction]:
    """The answers that the scores were computed from, in the order of the data.

    The log holds more answers if the evaluation was repeated with a smaller limit. It is in the order of the data, so
    the scores belong to its first lines.
    """
    log = read_predictions(directory)
    names = list(log)[: evaluation.data.evaluated] if order is None else order
    scored = {name: log[name] for name in names if name in log}
    share = evaluation.scores.overall.correct
    if len(scored) != share.n or sum(map(_right, scored.values())) != share.hits:
        raise CompareError(
            f"{directory}: {PREDICTIONS_NAME} is not the log from which the scores were computed. Evaluate again"
        )
    return scored


def _right(prediction: Prediction) -> bool:
    """Apply the score's rule again, because `correct` in the log may be older than the rule."""
    result = prediction.result
    options: Options | None = result.options if isinstance(result, Answer) else None
    return correct(options, frozenset(prediction.label) - {NONE})
