"""Answer-driven annotation (paper, section 3.2): the teacher writes the reasoning that leads to the true label.

The samples keep their labels and get new reasoning for stage 1.2. If a reasoning does not lead to the label, or reveals
that the answer was given, the teacher is asked again with a hint. After the last attempt the sample is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

from screening.answer import Answer
from trainer.data.annotate.errors import AnnotationError
from trainer.data.annotate.method import REASON, Accepted, Ask, Rejected, Step, settle
from trainer.data.annotate.prompts import reason_towards
from trainer.data.annotate.reading import Fault, contradicts_truth, read_reasoning, tells
from trainer.data.annotate.replies import Reply
from trainer.records import AnySample, Sample


class AnswerDriven:
    """One question per sample."""

    name = "answer-driven"

    def __init__(self, attempts: int, *, reveal_issues: bool = False) -> None:
        """Settings for what the teacher learns about the label.

        Args:
            reveal_issues: tell the issues of each picture too, not only the label. The verdicts must then name exactly
                these issues. The paper's training split has no issues.
        """
        self._attempts = attempts
        self._reveal_issues = reveal_issues

    def step(self, question: AnySample, replies: Sequence[Reply]) -> Step:
        """See `Method`.

        Raises:
            AnnotationError: the question has no label, or it has no dimensions although they must be revealed.
        """
        if not isinstance(question, Sample):
            raise AnnotationError(f"sample {question.id} has no label; answer-driven annotation needs one")
        truth = question
        if self._reveal_issues and not truth.dimensions_known:
            raise AnnotationError(
                f"sample {question.id} has a label but no dimensions; use --reveal label, or add the dimensions"
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
