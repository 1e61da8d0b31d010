"""Progressive annotation (paper, section 3.2): describe each picture, then reason from the descriptions.

The result is two data sets for stage 1.1: captions and weakly supervised reasoning. The teacher's answer becomes the
label even if it is wrong; the paper's teacher was right on 38.25 % (table 3, Qwen-VL-Max, CoT).

Beyond the paper: if a reasoning has no verdict on some picture, or if its answer contradicts its own verdicts, the
teacher is asked again, and the sample is rejected after the last attempt (`trainer.data.annotate.reading`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from screening.answer import Answer, Finding
from screening.task import Dimension
from trainer.data.annotate.method import REASON, Accepted, Ask, Rejected, Step, settle
from trainer.data.annotate.prompts import PLACES, describe, reason_from
from trainer.data.annotate.reading import read_caption, read_reasoning
from trainer.data.annotate.replies import Reply
from trainer.records import AnySample, Generated, Original, Sample


class Progressive:
    """Asks six questions per sample: a description of each picture alone, and then the reasoning."""

    name = "progressive"

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts

    def step(self, question: AnySample, replies: Sequence[Reply]) -> Step:
        """See `Method`."""
        captions: dict[str, str] = {}
        for place in PLACES:
            caption = settle(f"describe {place}", replies, read_caption, partial(describe, place), self._attempts)
            if isinstance(caption, Ask | Rejected):
                return caption
            captions[place] = caption
        answer = settle(REASON, replies, read_reasoning, lambda hint: reason_from(captions, hint), self._attempts)
        if isinstance(answer, Ask | Rejected):
            return answer
        return Accepted(_sample(question, captions, answer), answer)


def _sample(question: AnySample, captions: dict[str, str], answer: Answer) -> Sample:
    """The sample with the teacher's label and verdicts. The teacher does not judge severities, so they stay 0.

    `provenance` and `pseudo_label` are left out, because they describe the label that the sample had.
    """
    return Sample(
        id=question.id,
        product=question.product,
        original=Original(
            file=question.original.file, caption=captions["original"], attributes=question.original.attributes
        ),
        generated=tuple(
            _generated(picture.file, finding, captions[finding.option])
            for picture, finding in zip(question.generated, answer.findings, strict=True)
        ),
        label=answer.text,
        reasoning=answer.reasoning or "",
        seed=question.seed,
        setting=question.setting,
        weight=question.weight,
        licence=question.licence,
    )


def _generated(file: str, finding: Finding, caption: str) -> Generated:
    dimensions: frozenset[Dimension] = finding.dimensions or frozenset()
    return Generated(
        file=file,
        option=finding.option,
        usable=not dimensions,
        dimensions=dimensions,
        severity=0,
        comment=finding.comment,
        caption=caption,
    )
