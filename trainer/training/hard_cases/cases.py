"""Divides training samples into hard and easy ones.

Hard are those that the stage-1 model answers wrong by the rule of the evaluation (`trainer.judged.correct`; an
unreadable answer is wrong). For the paper's 2B model, 434 of 1,044 samples are hard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from screening.errors import UserError
from trainer.evaluation.evaluate.predictions import Prediction
from trainer.judged import Judged
from trainer.records import Sample


class HardCasesError(UserError, ValueError):
    """Hard cases do not belong to the samples, or an epoch would be empty; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Cases:
    """Ids of the training set, all and hard ones, in the order of the samples."""

    all: tuple[str, ...]
    hard: tuple[str, ...]

    @property
    def easy(self) -> tuple[str, ...]:
        """Ids of the samples that the model answers right."""
        hard = frozenset(self.hard)
        return tuple(sample for sample in self.all if sample not in hard)


def find_cases(samples: Sequence[Sample], predictions: Iterable[Prediction]) -> Cases:
    """Divide samples into hard and easy ones.

    Args:
        samples: the training set, or the part of it that is used.
        predictions: predictions of the stage-1 model in CoT mode, for all of these samples. Those of other samples are
            ignored, and of several for one sample the last counts, as in the log of `trainer evaluate`.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    wrong = [sample.id for sample in samples if not Judged(sample, by_id[sample.id].result).correct]
    return Cases(tuple(sample.id for sample in samples), tuple(wrong))
