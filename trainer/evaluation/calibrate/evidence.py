"""Collects the answers for a calibration: this checkpoint's, on data that neither trained nor tests it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.manifest import Manifest
from screening.confidence import choose
from screening.errors import UserError
from screening.task import NONE, Options
from trainer.evaluation.evaluate.predictions import Prediction, read_predictions
from trainer.evaluation.evaluate.result import Evaluation, read_evaluation
from trainer.products import repeated


class CalibrationError(UserError):
    """A calibration cannot be fitted on these evaluations; the message says on which one and why."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The choice of one readable answer, and its probability."""

    none: bool
    """Whether the choice is `N`."""
    probability: float
    """Probability of the choice (`screening.confidence`), before calibration."""
    right: bool
    """Whether the choice is in the label."""
    weight: float = 1.0
    """Number of answers that this one counts as."""
    product: str = ""
    """The product of the question; empty if it has a product of its own."""


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """One readable answer, with the probabilities from which its choice follows."""

    options: Options
    """Empty for `N`."""
    usable: Mapping[str, float]
    """u(X) of `screening.confidence`, before calibration."""
    none: float
    """Probability of the choice `N`; without meaning if options are named."""
    label: Options
    weight: float = 1.0
    """Number of answers that this one counts as; see `trainer.records.SampleLine`."""
    product: str = ""
    """The product of the question; empty if it has a product of its own."""

    def answered(self, calibration: Calibration) -> Answered:
        """The choice that the service would make with these position shifts; the curve is not applied."""
        if not self.options:
            return Answered(True, self.none, not self.label, self.weight, self.product)
        choice, probability = choose(self.options, self.usable, calibration)
        return Answered(False, probability, choice in self.label, self.weight, self.product)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The answers of one mode."""

    mode: Mode
    data: tuple[str, ...]
    """Digests of the data sets, sorted."""
    answers: tuple[ReadAnswer, ...]
    unknown: int
    """Number of answers without a probability, mostly unreadable ones. Their confidence is 0 with any fit."""

    @property
    def weighted(self) -> bool:
        """Whether the answers count differently."""
        return len({answer.weight for answer in self.answers}) > 1

    @property
    def products(self) -> int | None:
        """Number of products; None if each answer has its own."""
        return repeated(products_of(self.answers))


def products_of(answers: Sequence[Answered] | Sequence[ReadAnswer]) -> list[Hashable]:
    """The product of each answer. An answer of which it is unknown has one of its own."""
    return [answer.product or object() for answer in answers]


def gather(directories: Sequence[Path], manifest: Manifest) -> list[Evidence]:
    """Read evaluations and pool the answers of each mode.

    Raises:
        CalibrationError: an evaluation is of another model or on data that must not be used; or two are on the same
            data.
        EvaluationError: a directory holds no finished evaluation.
    """
    found = [(directory, read_evaluation(directory)) for directory in directories]
    for directory, evaluation in found:
        _check_usable(directory, evaluation, manifest)
    pooled = []
    for mode in Mode:
        members = [(directory, one) for directory, one in found if one.mode is mode]
        data = sorted(one.data.digest for _, one in members)
        if len(set(data)) < len(data):
            raise CalibrationError(f"two evaluations in mode {mode} are on the same data. Give one of them")
        if members:
            answered = [_read(directory) for directory, _ in members]
            known = tuple(answer for answers in answered for answer in answers if answer)
            unknown = sum(map(len, answered)) - len(known)
            pooled.append(Evidence(mode, tuple(data), _to_scale(known), unknown))
    return pooled


def _to_scale(answers: Sequence[ReadAnswer]) -> tuple[ReadAnswer, ...]:
    """Scale the weights so that their sum is the effective number of answers (Kish 1965): (Σw)² / Σw².

    The fits add a fixed number of votes against chance. Unequal weights say less than equally many equal ones, so
    against those votes they count less. Equal weights become 1.
    """
    weights = [answer.weight for answer in answers]
    if len(set(weights)) == 1:
        return tuple(replace(answer, weight=1.0) for answer in answers)
    scale = sum(weights) / sum(weight * weight for weight in weights)
    return tuple(replace(answer, weight=answer.weight * scale) for answer in answers)


def _check_usable(directory: Path, evaluation: Evaluation, manifest: Manifest) -> None:
    checkpoint, data = evaluation.checkpoint, evaluation.data
    if evaluation.locate:
        raise CalibrationError(f"{directory} is an evaluation with --locate. Give one without it")
    if checkpoint is None:
        raise CalibrationError(f"{directory} is an evaluation of an endpoint, whose probabilities are unknown")
    # Evaluations keep probabilities from before calibration, so an earlier calibration does not matter.
    if checkpoint.digest not in (manifest.digest, manifest.uncalibrated.digest):
        raise CalibrationError(f"{directory} is an evaluation of {checkpoint.digest}, not of {manifest.digest}")
    if data.frozen:
        raise CalibrationError(
            f"{directory} is an evaluation on a frozen test set; calibrating on it would inflate later scores. "
            "Use validation data"
        )
    if data.digest in manifest.scored_on:
        raise CalibrationError(
            f"{directory} is an evaluation on the data of the checkpoint's published scores; calibrating on it would "
            "inflate them. Use validation data"
        )
    if data.digest in manifest.trained_on:
        raise CalibrationError(
            f"{directory} is an evaluation on data that the checkpoint was trained on, where the model is "
            "overconfident. Use validation data"
        )


def _read(directory: Path) -> list[ReadAnswer | None]:
    lines = read_predictions(directory).values()
    answers = [_known(line) for line in lines]
    incomplete = any(line.probability is not None and not answer for line, answer in zip(lines, answers, strict=True))
    if incomplete or not any(answers):
        raise CalibrationError(
            f"{directory}: no answer is readable, or the probability of an option is missing. Evaluate again in a new "
            "directory"
        )
    return answers


def _known(line: Prediction) -> ReadAnswer | None:
    if line.options is None or line.probability is None:
        return None
    options = frozenset(line.options) - {NONE}
    if not line.usable.keys() >= options:
        return None
    label = frozenset(line.label) - {NONE}
    return ReadAnswer(options, line.usable, line.probability, label, line.weight, line.product)
