"""The reasoning of a pseudo-labelled sample, which `sft` needs in CoT mode.

If the data's own order agrees, its reasoning is taken as it is. Otherwise the model was wrong in that order and other
orders corrected it. Such samples teach the most, and the reasoning of an agreeing order is rewritten for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from screening.answer import Answer, Finding, compose
from screening.task import OPTIONS
from trainer.training.pseudo_label.orders import OWN_ORDER, mapped_back

_OPENING_ENDS = "I observed <"
_POSITION = re.compile(r"\b(?:[A-D]|(?i:first|(?<!\ba )second|third|fourth|last|previous|next(?! to\b)))\b")
"""Letters and words in a comment that may name another picture by its position, which the rewriting changes. A letter
might also be an article, and `first` might mean a glance; such reasoning is not rewritten either. The words `a second`,
`next to`, `left` and `right` are allowed, because they describe what is in a picture."""


def reasoning_of(agreeing: Sequence[tuple[str, Answer]]) -> str | None:
    """A reasoning that leads to the agreed label, in the letters of the data.

    Args:
        agreeing: orders with their answers, the preferred ones first.

    Returns:
        None if no reasoning can be taken or rewritten. An empty one cannot be taken, because `sft` needs words. Answers
        in Direct mode have the reasoning "".
    """
    for order, answer in sorted(agreeing, key=lambda one: one[0] != OWN_ORDER):
        if answer.reasoning is None:  # Direct mode
            return ""
        text = answer.reasoning if order == OWN_ORDER else rewritten(answer, order)
        if text and text.strip():
            return text
    return None


def rewritten(answer: Answer, order: str) -> str | None:
    """The reasoning of an answer to an order, with the letters of the data.

    Returns:
        None if the reasoning does not have the form of `screening.answer.compose`, or if a comment may name the
        position of a picture.
    """
    opening, found, _ = (answer.reasoning or "").partition(_OPENING_ENDS)
    findings = sorted(
        (Finding(order[OPTIONS.index(one.option)], one.dimensions, one.comment) for one in answer.findings),
        key=lambda one: one.option,
    )
    if not found or any(_POSITION.search(text) for text in (opening, *(one.comment for one in findings))):
        return None
    if tuple(one.option for one in findings) != OPTIONS:
        return None
    try:
        return compose(mapped_back(answer.options, order), tuple(findings), opening).reasoning
    except ValueError:  # a comment would be read back as something else
        return None
