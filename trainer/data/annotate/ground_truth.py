"""Annotation without a teacher: the reasoning of rendered samples, from what the renderer planted.

With an error rate some samples are made wrong on purpose, as a weak teacher would get them wrong: it overlooks a
subtle defect, sees one where there is none, or names the wrong dimension. The paper's teacher is right on 38.25 %
(table 3, Qwen-VL-Max, CoT), which an error rate of 0.6175 stands for. Wrong means wrong by the paper's score
(section 5.1), and verdicts, label and reasoning of a wrong sample agree with each other, as a teacher's own do.
Captions are left right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from screening.answer import Answer, Finding, compose
from screening.task import Dimension, options_text
from trainer.data.annotate.errors import AnnotationError
from trainer.data.annotate.invention import INVENTED, invent
from trainer.data.annotate.method import REASON, Accepted, Rejected
from trainer.data.annotate.questions import Question
from trainer.data.annotate.reading import Fault
from trainer.data.render.words import NORMAL_COMMENT
from trainer.metrics import correct
from trainer.records import Generated, Sample

HARSH = 0.25
"""Of the wrong samples with one or two good pictures, those whose answer becomes `N` with everything found bad."""
ALSO_OVERLOOKED = 0.15
ALSO_INVENTED = 0.25
ALSO_SWAPPED = 0.25
"""Per picture: further mistakes of a sample that is wrong already."""

_OPENING_ENDS = "I observed <"


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The annotator. The same seed and sample id give the same annotation, whatever else is in the data."""

    seed: int
    error_rate: float = 0.0

    def annotate(self, question: Question) -> Accepted | Rejected:
        """Write one sample's reasoning.

        Raises:
            AnnotationError: the question has no label, or no dimensions.
        """
        if (truth := question.truth) is None:
            raise AnnotationError(f"sample {question.id} has no label; there is no ground truth to annotate it from")
        if not truth.dimensions_known:
            raise AnnotationError(
                f"sample {question.id} has a label and no dimensions, so its reasoning cannot be written from the "
                "truth; use `annotate answer-driven` with a teacher"
            )
        sample = self._corrupted(truth) if self.corrupts(truth) else truth
        try:
            answer = reasoned(sample)
        except ValueError as error:  # a comment in the words of the grammar
            return Rejected(REASON, Fault("composition", str(error)))
        return Accepted(sample.model_copy(update={"reasoning": answer.reasoning}), answer)

    def corrupts(self, sample: Sample) -> bool:
        """Whether this sample is made wrong. A higher rate makes more wrong and lets those that are wrong stay so."""
        return self._stream(sample, "whether").random() < self.error_rate

    def _corrupted(self, truth: Sample) -> Sample:
        pictures = corrupt(truth, self._stream(truth, "how"))
        label = options_text(picture.option for picture in pictures if picture.usable)
        return Sample.model_validate(
            {**truth.model_dump(), "generated": [p.model_dump() for p in pictures], "label": label}
        )

    def _stream(self, sample: Sample, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{sample.id}/{purpose}")  # from the text, so the same in every process


def reasoned(sample: Sample) -> Answer:
    """The answer in full, from the sample's own verdicts and comments.

    The sentence about the original is that of the reasoning which is there already, or made of the caption.

    Raises:
        ValueError: see `screening.answer.compose`.
    """
    opening, found, _ = sample.reasoning.partition(_OPENING_ENDS)
    if not found:
        opening = f"The original is {sample.original.caption.strip(' .')}." if sample.original.caption.strip() else ""
    findings = tuple(
        Finding(picture.option, picture.dimensions, " ".join(picture.comment.split()).strip(" ,;"))
        for picture in sample.generated
    )
    return compose(sample.options, findings, opening)


def corrupt(truth: Sample, rng: random.Random) -> tuple[Generated, ...]:
    """The four pictures as somebody sees them who gets the sample wrong.

    Wrong takes one of two forms: a bad picture among those named, or `N` although there is a good one. The first needs
    a bad picture, the second a good one; every label allows at least one.
    """
    good = [picture for picture in truth.generated if picture.usable]
    bad = [picture for picture in truth.generated if not picture.usable]
    harsh = not bad or (1 <= len(good) <= 2 and rng.random() < HARSH)
    overlooked = None if harsh else _subtle(bad, rng)
    seen = []
    for picture in truth.generated:
        if picture.usable:
            wrong = harsh or rng.random() < ALSO_INVENTED
            seen.append(_found_bad(picture, truth, rng) if wrong else picture)
        elif picture is overlooked:
            seen.append(_overlooked(picture))
        else:
            seen.append(_misjudged(picture, truth, rng, may_overlook=not harsh))
    answer = frozenset(picture.option for picture in seen if picture.usable)
    assert not correct(answer, truth.options), (truth.id, answer)
    return tuple(seen)


def _subtle(bad: Sequence[Generated], rng: random.Random) -> Generated:
    """The one that is overlooked: the subtler its worst defect, the more often."""
    return rng.choices(bad, [1 / max(1, picture.severity) ** 2 for picture in bad])[0]


def _overlooked(picture: Generated) -> Generated:
    return picture.model_copy(
        update={
            "usable": True,
            "dimensions": frozenset(),
            "severity": 0,
            "defects": (),
            "comment": NORMAL_COMMENT,
        }
    )


def _found_bad(picture: Generated, truth: Sample, rng: random.Random) -> Generated:
    return _with_defect(picture, truth, rng, INVENTED)


def _misjudged(picture: Generated, truth: Sample, rng: random.Random, *, may_overlook: bool) -> Generated:
    """A bad picture beside the mistake that makes the sample wrong: mostly seen right."""
    chance = rng.random()
    if may_overlook and chance < ALSO_OVERLOOKED:
        return _overlooked(picture)
    if chance < ALSO_OVERLOOKED + ALSO_SWAPPED:
        return _with_defect(picture, truth, rng, [one for one in INVENTED if one not in picture.dimensions])
    return picture


def _with_defect(picture: Generated, truth: Sample, rng: random.Random, dimensions: Sequence[Dimension]) -> Generated:
    """The picture with one made-up defect, of one of these dimensions, in place of its own; as it is without any."""
    if not dimensions:
        return picture
    defect = invent(rng.choice(dimensions), truth.original.attributes, rng)
    return picture.model_copy(
        update={
            "usable": False,
            "dimensions": frozenset({defect.dimension}),
            "severity": defect.severity,
            "defects": (defect,),
            "comment": defect.comment,
        }
    )
