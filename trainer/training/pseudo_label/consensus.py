"""What the answers to one question in several orders agree on.

The label that most orders give counts (self-consistency, Wang et al. 2022, arXiv 2203.11171). Here the samples of the
vote are picture orders, so a label that follows from positions and not from pictures does not win.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from screening.answer import Answer, Mode, parse
from screening.task import NONE, Dimension, Options, options_text
from trainer.training.pseudo_label.answers import OrderAnswer
from trainer.training.pseudo_label.orders import OWN_ORDER, mapped_back
from trainer.training.pseudo_label.reasoning import reasoning_of


@dataclass(frozen=True, slots=True)
class Consensus:
    """The result of the vote on one question. All letters are options of the data."""

    id: str
    options: Options | None
    """The label that most orders give; None if every answer is unreadable."""
    agreeing: int
    """Number of orders that give this label."""
    orders: int
    confidence: float
    """Mean calibrated confidence of the agreeing orders in their choices; 0 without a label."""
    choice: str | None
    """The choice of the surest agreeing order, or `N`."""
    own_order: bool
    """Whether the data's own order is among the agreeing ones. Otherwise the vote corrects the model's answer."""
    reasoning: str | None
    """A reasoning that leads to the label; empty only in Direct mode, None if the answers have none for this order."""
    flagged: bool
    """Whether the pictures are outside the checkpoint's training domain."""

    @property
    def agreement(self) -> float:
        """Share of the orders that give the label; unreadable answers count against it."""
        return self.agreeing / self.orders


def vote(answers: Sequence[OrderAnswer], mode: Mode, dimensions: Collection[Dimension]) -> Consensus:
    """Find the label that most orders give. Of several with equally many, the one with the highest confidence counts.

    Args:
        answers: the answers to one question, one per order; at least one.
        dimensions: dimensions of the checkpoint.
    """
    ballots: dict[Options, list[tuple[OrderAnswer, Answer]]] = {}
    for one in answers:
        if isinstance(result := parse(one.text, mode, dimensions), Answer):
            ballots.setdefault(mapped_back(result.options, one.order), []).append((one, result))
    options = min(ballots, key=lambda label: _rank(label, ballots[label]), default=None)
    agreeing = [] if options is None else sorted(ballots[options], key=lambda one: -one[0].confidence)
    return Consensus(
        id=answers[0].id,
        options=options,
        agreeing=len(agreeing),
        orders=len(answers),
        confidence=fmean(one.confidence for one, _ in agreeing) if agreeing else 0.0,
        choice=_choice(agreeing[0][0]) if agreeing else None,
        own_order=any(one.order == OWN_ORDER for one, _ in agreeing),
        reasoning=reasoning_of([(one.order, answer) for one, answer in agreeing]),
        flagged=any(one.flagged for one in answers),
    )


def _rank(label: Options, ballots: Sequence[tuple[OrderAnswer, Answer]]) -> tuple[int, float, str]:
    return -len(ballots), -sum(one.confidence for one, _ in ballots), options_text(label)


def _choice(answer: OrderAnswer) -> str:
    """The choice of a readable answer, as an option of the data."""
    return options_text(mapped_back(frozenset(answer.choice or NONE) - {NONE}, answer.order))
