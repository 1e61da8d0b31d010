"""Which pseudo-labels are kept: those that the orders agree on and that are sure enough, in balanced numbers.

A model is surest about easy questions, often about `N` or about single pictures. Without a limit these would take over,
and the next model would give such answers more often still. Samples are therefore counted by the number of usable
pictures, and no class may exceed its share in a reference by more than a factor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from screening.task import OPTIONS
from trainer.training.pseudo_label.consensus import Consensus

CLASSES = range(len(OPTIONS) + 1)
"""Numbers of usable pictures; 0 is `N`. Letters are no classes, because the order of the pictures is arbitrary."""

Reason = Literal["unreadable", "agreement", "confidence", "no reasoning", "contradiction", "balance"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the selection."""

    min_agreement: float
    """Minimum share of the orders that give the label."""
    min_confidence: float
    """Minimum mean calibrated confidence of the agreeing orders."""
    max_overshare: float
    """Maximum factor by which the share of a class may exceed its share in the reference; at least 1."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected questions in the order of the data, and why each of the others was not selected."""

    selected: tuple[Consensus, ...]
    rejected: Mapping[str, Reason]
    """Sample id → reason."""


def class_of(consensus: Consensus) -> int:
    """Number of pictures that a label calls usable. Only for a question with a label."""
    assert consensus.options is not None
    return len(consensus.options)


def select(
    votes: Sequence[Consensus], rules: Rules, reference: Mapping[int, int], contradicting: frozenset[str] = frozenset()
) -> Selection:
    """Select pseudo-labels. Of each class, those with the highest agreement and then the highest confidence are taken.

    Args:
        reference: class → number of samples; the shares of the classes follow from it.
        contradicting: ids of questions whose reasoning concludes with another label.
    """
    rejected = {one.id: reason for one in votes if (reason := _fault(one, rules, contradicting))}
    passed = [one for one in votes if one.id not in rejected]
    limits = class_limits(Counter(map(class_of, passed)), reference, rules.max_overshare)
    taken: Counter[int] = Counter()
    chosen = set()
    for one in sorted(passed, key=lambda one: (-one.agreement, -one.confidence, one.id)):
        if taken[class_of(one)] < limits[class_of(one)]:
            taken[class_of(one)] += 1
            chosen.add(one.id)
    selected = tuple(one for one in passed if one.id in chosen)
    return Selection(selected, {**rejected, **{one.id: "balance" for one in passed if one.id not in chosen}})


def class_limits(available: Mapping[int, int], reference: Mapping[int, int], max_overshare: float) -> dict[int, int]:
    """How many samples of each class can be taken so that none exceeds its share in the reference too far.

    The result is the largest one: it starts with everything that is available, and lowers the total until each class
    has at most `max_overshare` x its reference share of the total, rounded up.
    """
    if not (whole := sum(reference.values())):
        return dict.fromkeys(CLASSES, 0)
    limits = {one: available.get(one, 0) if reference.get(one) else 0 for one in CLASSES}
    while True:
        total = sum(limits.values())
        lower = {
            one: min(limits[one], math.ceil(max_overshare * total * reference.get(one, 0) / whole)) for one in CLASSES
        }
        if lower == limits:
            return limits
        limits = lower


def _fault(one: Consensus, rules: Rules, contradicting: frozenset[str]) -> Reason | None:
    if one.options is None:
        return "unreadable"
    if one.agreement < rules.min_agreement:
        return "agreement"
    if one.confidence < rules.min_confidence:
        return "confidence"
    if one.reasoning is None:
        return "no reasoning"
    return "contradiction" if one.id in contradicting else None
