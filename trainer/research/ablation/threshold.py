"""Measure how well a model separates usable pictures from others, independent of its own threshold.

A variant may score better because it recognises more, or only because it names more or fewer pictures. So the answers
are computed again from u(X) of `screening.confidence`: an answer names every picture above a threshold, or is `N` if
there is none. The score at the best threshold is not a result of the model, because the threshold is chosen afterwards
on the same samples. It serves to compare two models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import NamedTuple

from screening.answer import parse_options
from screening.task import Options
from trainer.judged import correct
from trainer.reward import proportion

THRESHOLDS = tuple(1 / (1 + math.exp(-step / 4)) for step in range(-12, 13))
"""Thresholds on u(X): log-odds from -3 to 3."""


class Best(NamedTuple):
    """The best values over all thresholds; each may have its own threshold."""

    score: float
    """Percentage of samples with a correct answer."""
    reward: float
    """Mean r_acc (paper, eq. 7)."""


def best(answers: Iterable[tuple[Mapping[str, float], str]]) -> Best | None:
    """Try the thresholds.

    Args:
        answers: for each sample, u(X) by option and the letters of the label. u(X) is empty for an unreadable answer,
            which counts as wrong.

    Returns:
        None if no answer has u(X), for example from an endpoint.
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
    assert isinstance(options, frozenset), label  # the data were read before they were answered
    return options
