"""Annotation without a teacher: write the reasoning of rendered samples from the defects that were planted.

With an error rate, some samples are made wrong on purpose, with the mistakes of a weak teacher: it overlooks a subtle
defect, reports one that does not exist, or names the wrong dimension. The paper's teacher is right on 38.25 % (table 3,
Qwen-VL-Max, CoT), which corresponds to an error rate of 0.6175. Wrong means wrong by the paper's score (section 5.1).
Verdicts, label and reasoning of a wrong sample agree with each other, as those of a teacher do. Captions stay correct.
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
from trainer.data.annotate.reading import Fault
from trainer.data.render.words import NORMAL_COMMENT
from trainer.judged import correct
from trainer.records import AnySample, Generated, Sample

HARSH = 0.25
"""Share of the wrong samples with one or two usable pictures whose answer becomes `N`, with all pictures called bad."""
ALSO_OVERLOOKED = 0.15
ALSO_INVENTED = 0.25
ALSO_SWAPPED = 0.25
"""Probability of a further mistake per picture, in a sample that is already wrong."""

_OPENING_ENDS = "I observed <"


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The annotator. The annotation of a sample depends only on the seed, the sample and its id."""

    seed: int
    error_rate: float = 0.0

    def annotate(self, question: AnySample) -> Accepted | Rejected:
        """Write the reasoning of one sample.

        Raises:
            AnnotationError: the question has no label, or no dimensions.
        """
        if not isinstance(question, Sample):
            raise AnnotationError(f"sample {question.id} has no label, so there is no ground truth to annotate it from")
        if not question.dimensions_known:
            raise AnnotationError(
                f"sample {question.id} has a label but no dimensions, so its reasoning cannot be written from the "
                "truth; use `annotate answer-driven` with a teacher"
            )
        sample = self._corrupted(question) if self.corrupts(question) else question
        try:
            answer = reasoned(sample)
        except ValueError as error:  # the answer grammar limits the characters of a comment
            return Rejected(REASON, Fault("composition", str(error)))
        return Accepted(sample.model_copy(update={"reasoning": answer.reasoning}), answer)

    def corrupts(self, sample: Sample) -> bool:
        """Whether to make this sample wrong. With a higher rate, all samples that were wrong stay wrong."""
        return self._stream(sample, "whether").random() < self.error_rate

    def _corrupted(self, truth: Sample) -> Sample:
        pictures = corrupt(truth, self._stream(truth, "how"))
        label = options_text(picture.option for picture in pictures if picture.usable)
        return Sample.model_validate(
            {**truth.model_dump(), "generated": [p.model_dump() for p in pictures], "label": label}
        )

    def _stream(self, sample: Sample, purpose: str) -> random.Random:
        return random.Random(
            f"{self.seed}/{sample.id}/{purpose}"
        )  # seeded with a text, which is the same in every process


def reasoned(sample: Sample) -> Answer:
    """Write the complete answer from the sample's own verdicts and comments.

    The sentence about the original is taken from the existing reasoning, or made from the caption.

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
    """The four pictures as a teacher sees them who gets the sample wrong.

    A sample is wrong in one of two ways: the answer names a bad picture, or it is `N` although a picture is usable. The
    first needs a bad picture and the second a usable one, so every label allows at least one of the two.
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
    """Choose the bad picture that is overlooked; subtle defects are overlooked more often."""
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
    """A bad picture of a wrong sample that is not the mistake itself; it is mostly judged correctly."""
    chance = rng.random()
    if may_overlook and chance < ALSO_OVERLOOKED:
        return _overlooked(picture)
    if chance < ALSO_OVERLOOKED + ALSO_SWAPPED:
        return _with_defect(picture, truth, rng, [one for one in INVENTED if one not in picture.dimensions])
    return picture


def _with_defect(picture: Generated, truth: Sample, rng: random.Random, dimensions: Sequence[Dimension]) -> Generated:
    """Replace the defects of a picture by an invented one of the given dimensions; without dimensions, keep them."""
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
