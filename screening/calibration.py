"""From the model's own probability to a confidence: what `trainer calibrate` fitted and the manifest carries."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1, where the logit is infinite."""
LEAST_SLOPE = 0.01
"""Of a curve. Below it confidence would no longer follow the probability at all."""
MOST_SLOPE = 100.0
MOST_INTERCEPT = 10.0
"""In log-odds, either way."""
MOST_SHIFT = 3.0
"""In log-odds, either way: a position that needs more is not shunned but not seen."""
_UNSURE = 0.001
_SURE = 0.999
"""A probability of the first never becomes a confidence above the second, nor the other way round."""
_FURTHEST_KNOT = 15.0
"""In log-odds; `logit` ends at 13.8."""
_TRACED = (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
"""Probabilities at which `trace` looks."""

Shift = Annotated[float, Field(ge=-MOST_SHIFT, le=MOST_SHIFT)]


def logit(probability: float) -> float:
    """Log-odds, finite also for 0 and 1."""
    kept = min(max(probability, EDGE), 1.0 - EDGE)
    return math.log(kept / (1.0 - kept))


def sigmoid(log_odds: float) -> float:
    """The probability behind log-odds."""
    # Written for both signs: exp of a large positive number overflows.
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1.0 + math.exp(log_odds))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Curve(_Strict):
    """Confidence over probability p: sigmoid(slope * logit(p) + intercept) (Platt scaling), or through knots.

    The identity, up to the edges, for slope 1 and intercept 0.
    """

    slope: float = Field(default=1.0, ge=LEAST_SLOPE, le=MOST_SLOPE)
    intercept: float = Field(default=0.0, ge=-MOST_INTERCEPT, le=MOST_INTERCEPT)
    knots: tuple[tuple[float, float], ...] = Field(default=(), max_length=64)
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
        if any(abs(place) > _FURTHEST_KNOT for place, _ in self.knots):
            raise ValueError(f"a knot lies between -{_FURTHEST_KNOT:g} and {_FURTHEST_KNOT:g} in log-odds")
        if self.knots and self.knots[0][1] == self.knots[-1][1]:
            raise ValueError("knots of one height are no curve: the confidence would not depend on the probability")
        return self

    @model_validator(mode="after")
    def _depends_on_the_probability(self) -> Self:
        if self.confidence(_UNSURE) > _SURE or self.confidence(_SURE) < _UNSURE:
            raise ValueError(
                f"a probability of {_UNSURE:g} becomes a confidence of {self.confidence(_UNSURE):.6g}, and one of "
                f"{_SURE:g} becomes {self.confidence(_SURE):.6g}: the confidence would not depend on the probability"
            )
        return self

    def confidence(self, probability: float) -> float:
        """Between 0 and 1 for any probability, those a little outside of 0 to 1 included."""
        at = logit(probability)
        if self.knots:
            return self._between_knots(at)
        return sigmoid(self.slope * at + self.intercept)

    def _between_knots(self, at: float) -> float:
        place = bisect_right(self.knots, at, key=lambda knot: knot[0])
        if place in (0, len(self.knots)):
            return self.knots[min(place, len(self.knots) - 1)][1]
        (left, low), (right, high) = self.knots[place - 1 : place + 1]
        return low + (high - low) * (at - left) / (right - left)


class Shifts(_Strict):
    """What is added to the log-odds of each option's u(X), for a model that shuns a position or prefers one.

    Zero for all is no change.
    """

    A: Shift = 0.0
    B: Shift = 0.0
    C: Shift = 0.0
    D: Shift = 0.0

    def __call__(self, option: str, usable: float) -> float:
        """u(X) of an option, shifted; NaN stays NaN."""
        shift: float = getattr(self, option)
        return sigmoid(logit(usable) + shift) if shift else usable


class Calibration(_Strict):
    """What one mode's probabilities are worth: first by position, then the choice's.

    Which curve holds depends on the choice: the two probabilities are made differently.
    """

    shifts: Shifts = Shifts()
    """By position, before options are compared and one is chosen."""
    option: Curve = Curve()
    """When a picture is chosen."""
    none: Curve = Curve()
    """When the choice is `N`."""
    method: str = Field(default="none", max_length=100)
    """Which of `trainer.evaluation.calibrate.fit.METHODS` won."""
    answers: int = Field(default=0, ge=0, le=10**9)
    """How many answers it was fitted on."""
    data: tuple[str, ...] = ()
    """Digests of the data sets that they answer; a score on one of these would be flattered."""

    @model_serializer(mode="wrap")
    def _without_empty_shifts(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Manifests from before there were shifts keep their digest."""
        written: dict[str, Any] = write(self)
        if self.shifts == Shifts():
            written.pop("shifts", None)
        return written


UNCALIBRATED = Calibration()
"""The probability itself is the confidence."""


def trace(calibration: Calibration) -> tuple[float, ...]:
    """What a calibration makes of fixed probabilities: shifted for each option, then confident by either curve."""
    shifted = [calibration.shifts(option, at) for option in Shifts.model_fields for at in _TRACED]
    confident = [curve.confidence(at) for curve in (calibration.option, calibration.none) for at in _TRACED]
    return tuple(round(value, 9) for value in (*shifted, *confident))
