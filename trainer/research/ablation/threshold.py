"""How well a model tells usable pictures from others, apart from where it draws the line between them.

A variant may score better because it sees better, or only because it names more or fewer pictures. So its answers are
given again from u(X) of `screening.confidence`: every picture above a threshold is named, `N` where there is none. What
the best threshold gives is no result of the model, being chosen afterwards on the same samples; between two models it
compares what they see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import NamedTuple

from screening.answer import parse_options
from screening.task import Options
from trainer.metrics import correct
from trainer.reward import proportion

THRESHOLDS = tuple(1 / (1 + math.exp(-step / 4)) for step in range(-12, 13))
"""Of u(X): log-odds from -3 to 3."""


class Best(NamedTuple):
    """The highest that any threshold gives, each for itself."""

    score: float
    """Percent of the samples that are answered correctly."""
    reward: float
    """Mean r_acc of eq. 7."""


def best(answers: Iterable[tuple[Mapping[str, float], str]]) -> Best | None:
    """Try the thresholds.

    Args:
        answers: u(X) by option, empty for an unreadable answer, which stays wrong; and the label's letters.

    Returns:
        None where no answer has u(X), as behind an endpoint.
    """
    known = [(usable, _label(label)) for usable, label in answers]
    if not any(usable for usable, _ in known):
        return None
    found = []
    for threshold in THRESHOLDS:
        named = [(_above(threshold, usable), label) for usable, label in known]
        found.append((fmean(correct(*one) for one in named), fmean(proportion(*one) for one in named)))
    scores, rewards = zip(*found, strict=True)
    return Best(100 * max(scores), max(rewards))


def _above(threshold: float, usable: Mapping[str, float]) -> Options | None:
    return frozenset(option for option, value in usable.items() if value > threshold) if usable else None


def _label(label: str) -> Options:
    options = parse_options(label)
    assert isinstance(options, frozenset), label  # of data that was read before it was answered
    return options
