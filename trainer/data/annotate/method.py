"""What a method of annotation is: a pure function from a question and the replies so far to the next step.

All state is in the replies, so going on after a kill is the same as going on after a reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from screening.answer import Answer
from trainer.data.annotate.prompts import Part
from trainer.data.annotate.questions import Question
from trainer.data.annotate.reading import Fault
from trainer.data.annotate.replies import Reply
from trainer.records import Sample

REASON = "reason"
"""The task in which the teacher thinks and answers."""

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Ask:
    """Put this to the teacher."""

    task: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Done."""

    sample: Sample
    """The annotated sample."""
    answer: Answer
    """What the reasoning in it says, for the comparison with the truth."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Given up."""

    task: str
    fault: Fault
    attempts: int = 0
    text: str = ""
    """The last reply."""


Step = Ask | Accepted | Rejected


class Method(Protocol):
    """`progressive` or `answer-driven`."""

    name: str

    def step(self, question: Question, replies: Sequence[Reply]) -> Step:
        """What to do next about one question."""


def settle(
    task: str,
    replies: Sequence[Reply],
    read: Callable[[Reply], Read | Fault],
    ask: Callable[[str], tuple[Part, ...]],
    attempts: int,
) -> Read | Ask | Rejected:
    """One task of a method: the first usable reply, else the question again, else the end.

    Args:
        replies: of the sample, all tasks mixed.
        ask: the question; gets what was wrong with the reply before, or an empty hint.
        attempts: usable or not, so many replies are asked for at most.
    """
    own = [reply for reply in replies if reply.task == task]
    fault: Fault | None = None
    for reply in own:
        result = read(reply)
        if not isinstance(result, Fault):
            return result
        fault = result
        if reply.refusal is not None:
            return Rejected(task, result, len(own) - 1)
    if fault is not None and len(own) >= attempts:
        return Rejected(task, fault, len(own), own[-1].text)
    return Ask(task, ask(fault.detail if fault else ""))
