"""Answer-driven annotation (paper, section 3.2): from the true label, the thinking that leads there.

The samples stay as they are, with new reasoning, for stage 1.2. A reasoning that does not lead to the label, or that
speaks of having been told, is asked for again with a hint and at last rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

from screening.answer import Answer
from trainer.data.annotate.errors import AnnotationError
from trainer.data.annotate.method import REASON, Accepted, Ask, Rejected, Step, settle
from trainer.data.annotate.prompts import reason_towards
from trainer.data.annotate.questions import Question
from trainer.data.annotate.reading import Fault, contradicts_truth, read_reasoning, tells
from trainer.data.annotate.replies import Reply
from trainer.records import Sample


class AnswerDriven:
    """One question per sample."""

    name = "answer-driven"

    def __init__(self, attempts: int, *, reveal_issues: bool = False) -> None:
        """Choose what the teacher is told.

        Args:
            reveal_issues: the issues of each picture, not only the label. Beyond the paper, whose training split has
                no issues; verdicts must then name exactly these.
        """
        self._attempts = attempts
        self._reveal_issues = reveal_issues

    def step(self, question: Question, replies: Sequence[Reply]) -> Step:
        """See `Method`.

        Raises:
            AnnotationError: the question has no label, or no dimensions where these are to be revealed.
        """
        if (truth := question.truth) is None:
            raise AnnotationError(f"sample {question.id} has no label; answer-driven annotation starts from it")
        if self._reveal_issues and not truth.dimensions_known:
            raise AnnotationError(
                f"sample {question.id} has a label and no dimensions; use --reveal label, or add the dimensions"
            )
        answer = settle(
            REASON,
            replies,
            lambda reply: self._read(reply, truth),
            lambda hint: reason_towards(truth, reveal_issues=self._reveal_issues, hint=hint),
            self._attempts,
        )
        if isinstance(answer, Ask | Rejected):
            return answer
        return Accepted(truth.model_copy(update={"reasoning": answer.reasoning}), answer)

    def _read(self, reply: Reply, truth: Sample) -> Answer | Fault:
        answer = read_reasoning(reply)
        if isinstance(answer, Fault):
            return answer
        return contradicts_truth(answer, truth, issues=self._reveal_issues) or tells(answer) or answer
