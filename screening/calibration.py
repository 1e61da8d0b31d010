"""From the model's own probability to a confidence: what `trainer calibrate` fitted and the manifest carries."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1, where the logit is infinite."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Curve(_Strict):
    """Confidence over probability p: sigmoid(slope * logit(p) + intercept) (Platt scaling), or through knots.

    The identity, up to the edges, for slope 1 and intercept 0.
    """

    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    """(logit(p), confidence), in ascending order; where there are any, they stand in place of the line. Straight
    between two of them and level beyond the last."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if len(self.knots) == 1:
            raise ValueError("one knot is no curve")
        if any(left[0] >= right[0] or left[1] > right[1] for left, right in pairwise(self.knots)):
            raise ValueError("knots must ascend: a higher probability never means a lower confidence")
        if any(not 0 <= confidence <= 1 for _, confidence in self.knots):
            raise ValueError("the confidence of a knot is between 0 and 1")
        return self

    def confidence(self, probability: float) -> float:
        """Between 0 and 1 for any probability, those a little outside of 0 to 1 included."""
        at = logit(probability)
        if self.knots:
            return self._between_knots(at)
        score = self.slope * at + self.intercept
        # Written for both signs: exp of a large positive number overflows.
        return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else math.exp(score) / (1.0 + math.exp(score))

    def _between_knots(self, at: float) -> float:
        place = bisect_right(self.knots, at, key=lambda knot: knot[0])
        if place in (0, len(self.knots)):
            return self.knots[min(place, len(self.knots) - 1)][1]
        (left, low), (right, high) = self.knots[place - 1 : place + 1]
        return low + (high - low) * (at - left) / (right - left)


class Calibration(_Strict):
    """The curves of one mode. Which one holds depends on the choice: the two probabilities are made differently."""

    option: Curve = Curve()
    """When a picture is chosen."""
    none: Curve = Curve()
    """When the choice is `N`."""
    method: str = "none"
    """Which of `trainer.calibrate.fit.METHODS` won."""
    answers: int = Field(default=0, ge=0)
    """How many answers it was fitted on."""
    data: tuple[str, ...] = ()
    """Digests of the data sets that they answer; a score on one of these would be flattered."""


UNCALIBRATED = Calibration()
"""The probability itself is the confidence."""


def logit(probability: float) -> float:
    """Log-odds, finite also for 0 and 1."""
    kept = min(max(probability, EDGE), 1.0 - EDGE)
    return math.log(kept / (1.0 - kept))
