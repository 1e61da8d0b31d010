"""Maps the model's own probabilities to calibrated confidences.

`python -m trainer calibrate` fits a calibration, and the checkpoint's manifest contains it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

EDGE = 1e-6
"""Minimum distance of probabilities from 0 and 1, where the logit is infinite."""
LEAST_SLOPE = 0.01
"""Minimum slope of a curve. With a smaller slope, the confidence would hardly depend on the probability."""
MOST_SLOPE = 100.0
MOST_INTERCEPT = 10.0
"""Maximum absolute intercept in log-odds."""
MOST_SHIFT = 3.0
"""Maximum absolute shift in log-odds. A model that needs a larger one ignores the position altogether."""
_UNSURE = 0.001
_SURE = 0.999
"""A curve must not map a probability of `_UNSURE` above a confidence of `_SURE`, or one of `_SURE` below `_UNSURE`."""
_FURTHEST_KNOT = 15.0
"""Maximum absolute position of a knot in log-odds; `logit` ends at 13.8."""
_TRACED = (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
"""Probabilities at which `trace` evaluates a calibration."""

Shift = Annotated[float, Field(ge=-MOST_SHIFT, le=MOST_SHIFT)]


def logit(probability: float) -> float:
    """Convert a probability to log-odds, which are finite also for 0 and 1."""
    kept = min(max(probability, EDGE), 1.0 - EDGE)
    return math.log(kept / (1.0 - kept))


def sigmoid(log_odds: float) -> float:
    """Convert log-odds to a probability."""
    # Each sign has its own formula, because exp overflows for a large positive number.
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1.0 + math.exp(log_odds))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Curve(_Strict):
    """Maps a probability p to a confidence by Platt scaling, sigmoid(slope * logit(p) + intercept), or by knots.

    A slope of 1 and an intercept of 0 give the identity, except close to 0 and 1.
    """

    slope: float = Field(default=1.0, ge=LEAST_SLOPE, le=MOST_SLOPE)
    intercept: float = Field(default=0.0, ge=-MOST_INTERCEPT, le=MOST_INTERCEPT)
    knots: tuple[tuple[float, float], ...] = Field(default=(), max_length=64)
    """Pairs of logit(p) and confidence in ascending order, which replace slope and intercept. The curve is linear
    between two knots and constant outside them."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if len(self.knots) == 1:
            raise ValueError("a curve needs no knots or at least two")
        if any(left[0] >= right[0] or left[1] > right[1] for left, right in pairwise(self.knots)):
            raise ValueError("knots must ascend: a higher probability never means a lower confidence")
        if any(not 0 <= confidence <= 1 for _, confidence in self.knots):
            raise ValueError("the confidence of a knot must be between 0 and 1")
        if any(abs(place) > _FURTHEST_KNOT for place, _ in self.knots):
            raise ValueError(f"a knot must lie between -{_FURTHEST_KNOT:g} and {_FURTHEST_KNOT:g} in log-odds")
        if self.knots and self.knots[0][1] == self.knots[-1][1]:
            raise ValueError("all knots have the same height: the confidence would not depend on the probability")
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
        """Return the confidence, between 0 and 1, also for a probability slightly outside 0 to 1."""
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
    """Corrections for a model that prefers or avoids a position, added to the log-odds of each option's u(X).

    A shift of 0 changes nothing.
    """

    A: Shift = 0.0
    B: Shift = 0.0
    C: Shift = 0.0
    D: Shift = 0.0

    def __call__(self, option: str, usable: float) -> float:
        """Return the shifted u(X) of an option. NaN stays NaN."""
        shift: float = getattr(self, option)
        return sigmoid(logit(usable) + shift) if shift else usable


class Calibration(_Strict):
    """The calibration of one mode: shifts by position, and a curve for the probability of the choice.

    A chosen picture and the choice `N` have separate curves, because their probabilities are computed differently.
    """

    shifts: Shifts = Shifts()
    """Shifts that are applied before the options are compared."""
    option: Curve = Curve()
    """Curve for a chosen picture."""
    none: Curve = Curve()
    """Curve for the choice `N`."""
    method: str = Field(default="none", max_length=100)
    """Name of the method that fitted best, from `trainer.evaluation.calibrate.fit.METHODS`."""
    answers: int = Field(default=0, ge=0, le=10**9)
    """Number of answers that the calibration was fitted on."""
    data: tuple[str, ...] = ()
    """Digests of the data sets that the calibration was fitted on. A score on one of them would be too good."""

    @model_serializer(mode="wrap")
    def _without_empty_shifts(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out shifts that are all 0, so that manifests without shifts keep their digest."""
        written: dict[str, Any] = write(self)
        if self.shifts == Shifts():
            written.pop("shifts", None)
        return written


UNCALIBRATED = Calibration()
"""A calibration that leaves probabilities unchanged."""


def trace(calibration: Calibration) -> tuple[float, ...]:
    """Evaluate a calibration at fixed probabilities: the shift of each option, then both curves."""
    shifted = [calibration.shifts(option, at) for option in Shifts.model_fields for at in _TRACED]
    confident = [curve.confidence(at) for curve in (calibration.option, calibration.none) for at in _TRACED]
    return tuple(round(value, 9) for value in (*shifted, *confident))
