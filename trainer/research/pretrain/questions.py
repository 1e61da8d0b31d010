"""The renderer's facts about a picture, as questions with fixed lists of answers and as numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from screening.task import Dimension
from trainer.data.render.defects import DIMENSION_WEIGHTS
from trainer.research.pretrain.batches import IGNORED
from trainer.research.pretrain.pool import Pool, PoolShot

ATTRIBUTES = ("kind", "body", "cap", "label", "mark", "mark_colour", "stripes")
DIMENSIONS = tuple(d.short for d in DIMENSION_WEIGHTS)
"""Dimensions of which the renderer plants defects."""
APPEARANCE = Dimension.APPEARANCE.short
"""The dimension that cannot be judged without the original."""
PRINTED = ("body", "cap", "mark", "mark_colour", "stripes", "tens", "ones")
"""Attributes that are compared between two pictures."""
COMPARED = ("body", "cap", "cap_shape", "mark", "mark_colour", "number", "stripes", "width")
"""Attributes that a generated picture may change; each has its own question, such as `same_body`."""
SAME, OTHER = "same", "other"
FINE = "fine"
MEASURES = "measures"
BOXES = "boxes"


def questions(shot: PoolShot, *, original: bool = False) -> dict[str, str]:
    """The questions about a picture and their answers: question → class.

    A generated picture has one question per dimension, with the answer `fine` or the sentence about its defect (no
    answer for several defects in one dimension). It also has one question per attribute, with `same` or `other`.
    """
    answers = {name: shot.attributes.get(name, "none") for name in ATTRIBUTES}
    number = shot.attributes.get("number", "")
    if len(number) == 2:
        answers["tens"], answers["ones"] = number[0], number[1]
    if light := re.search(r"light from the (\w+)", shot.caption):
        answers["light"] = light[1]
    if not original:
        comments = dict(zip(shot.dimensions, shot.comments, strict=True))
        answers |= {
            d.short: comments.get(d.value, FINE) for d in DIMENSION_WEIGHTS if shot.dimensions.count(d.value) < 2
        }
        answers |= {same(name): OTHER if name in shot.changed else SAME for name in COMPARED}
        if answers["mark"] == "none":
            del answers[same("mark_colour")]
        if answers["cap"] == "none":
            del answers[same("cap_shape")]
    return answers


def same(attribute: str) -> str:
    """Name of the question whether an attribute equals the original's."""
    return f"same_{attribute}"


COMPARISONS = (APPEARANCE, *map(same, COMPARED))
"""Questions that can only be answered with the original."""


@dataclass(frozen=True, slots=True)
class Questionnaire:
    """Every question that occurs in a pool."""

    classes: dict[str, tuple[str, ...]]
    """Question → answers, in the order of a head's logits."""
    measures: dict[str, tuple[float, float]]
    """Name → mean and standard deviation over the pool."""

    @classmethod
    def of(cls, pool: Pool) -> Questionnaire:
        """Collect all answers that occur in a pool."""
        seen: dict[str, Counter[str]] = {}
        measured: dict[str, list[float]] = {}
        for product in pool.products:
            for shot in product.shots:
                for name, answer in questions(shot, original=shot is product.original).items():
                    seen.setdefault(name, Counter())[answer] += 1
                for name, value in shot.measures.items():
                    measured.setdefault(name, []).append(value)
        return cls(
            {name: tuple(sorted(answers)) for name, answers in sorted(seen.items())},
            {name: (float(np.mean(v)), float(np.std(v)) or 1.0) for name, v in sorted(measured.items())},
        )

    def answers(self, shots: Sequence[tuple[PoolShot, bool]]) -> dict[str, torch.Tensor]:
        """Answers about pictures, each of which is given with a flag for originals.

        Returns:
            For each question the class numbers, (pictures,), with IGNORED if it does not apply. Under MEASURES, the
            standardised numbers, (pictures, measures), with NaN for missing ones. Under BOXES, the edges of the
            defects as shares of the picture, (pictures, dimensions x 4), with NaN where there is none.
        """
        numbers = {name: {answer: i for i, answer in enumerate(found)} for name, found in self.classes.items()}
        answers = [questions(shot, original=original) for shot, original in shots]
        found = {
            name: torch.tensor([classes.get(a.get(name, ""), IGNORED) for a in answers])
            for name, classes in numbers.items()
        }
        measured = [
            [(shot.measures.get(name, np.nan) - mean) / deviation for name, (mean, deviation) in self.measures.items()]
            for shot, _ in shots
        ]
        found[MEASURES] = torch.tensor(measured, dtype=torch.float32).reshape(len(shots), -1)
        nowhere = (np.nan,) * 4
        boxes = [[edge for d in DIMENSION_WEIGHTS for edge in shot.boxes.get(d.value, nowhere)] for shot, _ in shots]
        found[BOXES] = torch.tensor(boxes, dtype=torch.float32)
        return found


class AnswerSheet:
    """The answers about every picture of a pool, by row. They are cached, since they take a third of a step."""

    def __init__(self, questionnaire: Questionnaire, pool: Pool) -> None:
        shots = [(shot, shot is product.original) for product in pool.products for shot in product.shots]
        self._answers = questionnaire.answers(shots)
        self._places = {shot.row: place for place, (shot, _) in enumerate(shots)}

    def __call__(self, rows: Iterable[int]) -> dict[str, torch.Tensor]:
        """The answers for rows of the pool, in the form of `Questionnaire.answers`."""
        places = torch.tensor([self._places[row] for row in rows])
        return {name: answers[places] for name, answers in self._answers.items()}
