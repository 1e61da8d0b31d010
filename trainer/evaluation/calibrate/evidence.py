"""Which answers a calibration may be fitted on: this checkpoint's, on data of neither its training nor its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.manifest import Manifest
from screening.confidence import choose
from screening.errors import UserError
from screening.task import NONE, Options
from trainer.evaluation.evaluate.predictions import Prediction, read_predictions
from trainer.evaluation.evaluate.result import Evaluation, read_evaluation


class CalibrationError(UserError):
    """Evaluations that a calibration cannot be fitted on; the message says which one and why."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One readable answer whose probability is known."""

    none: bool
    """The choice is `N`."""
    probability: float
    """P of the choice (`screening.confidence`)."""
    right: bool
    """The choice is in the label."""


@dataclass(frozen=True, slots=True)
class Read:
    """One readable answer with all that it was read from."""

    options: Options
    """Empty for `N`."""
    usable: Mapping[str, float]
    """u(X), as the model gave it."""
    none: float
    """P of the choice `N`; of no meaning where options are named."""
    label: Options

    def answered(self, calibration: Calibration) -> Answered:
        """What the service would choose, before the curve."""
        if not self.options:
            return Answered(True, self.none, not self.label)
        choice, probability = choose(self.options, self.usable, calibration)
        return Answered(False, probability, choice in self.label)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The answers of one mode."""

    mode: Mode
    data: tuple[str, ...]
    """Digests of the data sets, sorted."""
    answers: tuple[Read, ...]
    unknown: int
    """Answers without a probability: unreadable ones as a rule. Their confidence is 0 whatever is fitted."""


def gather(directories: Sequence[Path], manifest: Manifest) -> list[Evidence]:
    """Read evaluations and pool those of one mode.

    Raises:
        CalibrationError: one is of another model, or on data that must not be used; or one data set is given twice.
        EvaluationError: a directory holds no finished evaluation.
    """
    found = [(directory, read_evaluation(directory)) for directory in directories]
    for directory, evaluation in found:
        _see_that_it_may_be_used(directory, evaluation, manifest)
    pooled = []
    for mode in Mode:
        members = [(directory, one) for directory, one in found if one.mode is mode]
        data = sorted(one.data.digest for _, one in members)
        if len(set(data)) < len(data):
            raise CalibrationError(f"two evaluations ({mode}) are on the same data; name each once")
        if members:
            answered = [_read(directory) for directory, _ in members]
            known = tuple(answer for answers in answered for answer in answers if answer)
            pooled.append(Evidence(mode, tuple(data), known, sum(map(len, answered)) - len(known)))
    return pooled


def _see_that_it_may_be_used(directory: Path, evaluation: Evaluation, manifest: Manifest) -> None:
    checkpoint, data = evaluation.checkpoint, evaluation.data
    if checkpoint is None:
        raise CalibrationError(f"{directory} is an evaluation of an endpoint's model; its probabilities are not known")
    # Those of single options are from before any calibration: it does not matter whether there was one.
    if checkpoint.digest not in (manifest.digest, manifest.uncalibrated.digest):
        raise CalibrationError(f"{directory} is an evaluation of {checkpoint.digest}, not of {manifest.digest}")
    if data.frozen:
        raise CalibrationError(f"{directory} is an evaluation on a frozen test set; its score would be flattered")
    if data.digest in manifest.scored_on:
        raise CalibrationError(f"{directory} is an evaluation on the data of the checkpoint's published scores")
    if data.digest in manifest.trained_on:
        raise CalibrationError(
            f"{directory} is an evaluation on data that the checkpoint was trained on: it is surer there"
        )


def _read(directory: Path) -> list[Read | None]:
    lines = read_predictions(directory).values()
    answers = [_known(line) for line in lines]
    from_before = any(line.probability is not None and not answer for line, answer in zip(lines, answers, strict=True))
    if from_before or not any(answers):
        raise CalibrationError(
            f"{directory} holds answers whose probabilities are not known: it is from before these were kept, or "
            "nothing was readable; evaluate again, in a new directory"
        )
    return answers


def _known(line: Prediction) -> Read | None:
    if line.options is None or line.probability is None:
        return None
    options = frozenset(line.options) - {NONE}
    if not line.usable.keys() >= options:
        return None
    return Read(options, line.usable, line.probability, frozenset(line.label) - {NONE})
