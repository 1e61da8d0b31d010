"""The interface of an annotation method: a pure function from a question and the replies so far to the next step.

All state is in the replies, so a killed run continues from the replies on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from screening.answer import Answer
from trainer.data.annotate.prompts import Part
from trainer.data.annotate.reading import Fault
from trainer.data.annotate.replies import Reply
from trainer.records import AnySample, Sample

REASON = "reason"
"""Name of the task in which the teacher reasons and answers."""

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Ask:
    """The teacher must be asked this next."""

    task: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The sample is annotated."""

    sample: Sample
    """The annotated sample."""
    answer: Answer
    """The parsed answer of its reasoning, for the comparison with the truth."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The sample is rejected after the last attempt."""

    task: str
    fault: Fault
    attempts: int = 0
    text: str = ""
    """The last reply."""


Step = Ask | Accepted | Rejected


class Method(Protocol):
    """`progressive` or `answer-driven`."""

    name: str

    def step(self, question: AnySample, replies: Sequence[Reply]) -> Step:
        """Decide the next step for one question."""


def settle(
    task: str,
    replies: Sequence[Reply],
    read: Callable[[Reply], Read | Fault],
    ask: Callable[[str], tuple[Part, ...]],
    attempts: int,
) -> Read | Ask | Rejected:
    """One task of a method: return the first usable reply, ask again, or give up after the last attempt.

    Args:
        replies: all replies about the sample, of all tasks.
        ask: makes the question; its argument is a hint about the previous reply, empty the first time.
        attempts: maximum number of replies to ask for.
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
