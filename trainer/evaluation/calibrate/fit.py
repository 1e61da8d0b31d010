"""Fitting confidence to being right, in a few ways, and choosing among them by answers that a fit has not seen. Before
that, taking away what a model believes about a position whatever is shown there.

Platt 1999 (a line through the log-odds, with his smoothed targets), isotonic regression (Zadrozny and Elkan 2002) and
how they compare: Niculescu-Mizil and Caruana 2005. Only what a manifest can hold in a few numbers is tried.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from screening.calibration import (
    EDGE,
    LEAST_SLOPE,
    MOST_INTERCEPT,
    MOST_SHIFT,
    MOST_SLOPE,
    UNCALIBRATED,
    Calibration,
    Curve,
    Shifts,
    logit,
)
from screening.task import OPTIONS
from trainer.evaluation.calibrate.evidence import Answered, CalibrationError, Read

FOLDS = 10
LEAST = 20
"""Right answers, and wrong ones, that a curve needs."""
FEW = 5
"""Votes for each position that count beside those of the answers."""
STEPS = 8
"""Levels of an isotonic curve, at most."""

Fit = Callable[[Sequence[Answered]], Calibration]


@dataclass(frozen=True, slots=True)
class Choice:
    """The method that won, fitted on everything, and what the others did."""

    calibration: Calibration
    losses: dict[str, float]
    """Mean negative log-likelihood (nats) of the answers that a fit has not seen, per method."""
    confidences: tuple[float, ...]
    """Of each answer, by the winning method fitted without it: what new answers would get. (Shifts by position are
    fitted on all answers; they are four numbers, and decide no curve.)"""


def calibrate(read: Sequence[Read], seed: int = 0) -> Choice:
    """Shifts by position first, then the curve of the choices that follow from them.

    Raises:
        CalibrationError: there are too few answers to tell.
    """
    shifted = Calibration(shifts=position_shifts(read))
    choice = choose([answer.answered(shifted) for answer in read], seed)
    calibration = choice.calibration.model_copy(update={"shifts": shifted.shifts})
    return dataclasses.replace(choice, calibration=calibration)


def position_shifts(read: Sequence[Read], rounds: int = 200) -> Shifts:
    """Shifts with which each position is chosen as often as the labels have it (`AC` counts half for A).

    Only the choice among several options that an answer names can move. Each round moves every position by the log
    of wanted over found, in steps that become smaller; the best round is taken. A few votes for every position are
    added to both, so that a few answers shift little. Being right on average over all pictures is another aim, and
    did not bring the choices nearer to the labels: what counts is the order among pictures that are called usable.
    """
    named = [answer for answer in read if answer.options]
    if not named:
        return Shifts()
    log_odds = np.array(
        [[logit(a.usable[option]) if option in a.options else -np.inf for option in OPTIONS] for a in named]
    )
    votes = np.array([[(option in a.label) / len(a.label) for option in OPTIONS] for a in read if a.label])
    wanted = votes.sum(0) * len(named) / max(len(votes), 1) + FEW
    shifts, best, least = np.zeros(len(OPTIONS)), np.zeros(len(OPTIONS)), math.inf
    for number in range(rounds):
        found = np.bincount((log_odds + shifts).argmax(1), minlength=len(OPTIONS)) + FEW
        if (distance := np.abs(found - wanted).sum()) < least:
            best, least = shifts, distance
        step = 0.5 / (1 + number / 20) * np.log(wanted / found)
        shifts = (shifts + step - step.mean()).clip(-MOST_SHIFT, MOST_SHIFT)
    return Shifts(**dict(zip(OPTIONS, best.tolist(), strict=True)))


def choose(answers: Sequence[Answered], seed: int = 0) -> Choice:
    """The method of the lowest cross-validated log-loss; of equals the simpler one.

    Raises:
        CalibrationError: there are too few answers to tell.
    """
    right = sum(answer.right for answer in answers)
    if min(right, len(answers) - right) < LEAST:
        raise CalibrationError(
            f"{right} right and {len(answers) - right} wrong answers are too few: at least {LEAST} of each are needed; "
            "evaluate on more samples"
        )
    held_out = {name: _held_out(fit, answers, seed) for name, fit in METHODS.items() if _enough(name, answers)}
    losses = {name: _log_loss(confidences, answers) for name, confidences in held_out.items()}
    best = min(losses, key=losses.__getitem__)
    fitted = METHODS[best](answers).model_copy(update={"method": best, "answers": len(answers)})
    return Choice(fitted, losses, held_out[best])


def as_it_is(_answers: Sequence[Answered]) -> Calibration:
    """The probability itself."""
    return UNCALIBRATED


def one_line(answers: Sequence[Answered]) -> Calibration:
    """Platt scaling, whatever was chosen."""
    curve = platt(answers)
    return Calibration(option=curve, none=curve)


def two_lines(answers: Sequence[Answered]) -> Calibration:
    """Platt scaling, one for pictures and one for `N`: their probabilities are made by different formulas."""
    option, none = ([answer for answer in answers if answer.none is kind] for kind in (False, True))
    return Calibration(option=platt(option), none=platt(none))


def steps(answers: Sequence[Answered]) -> Calibration:
    """Isotonic regression, whatever was chosen."""
    curve = isotonic(answers)
    return Calibration(option=curve, none=curve)


METHODS: dict[str, Fit] = {"none": as_it_is, "platt": one_line, "platt apart": two_lines, "isotonic": steps}
"""From simple to flexible."""


def platt(answers: Sequence[Answered], most: int = 100) -> Curve:
    """The line through the log-odds of the highest likelihood, by Newton's method.

    Targets are Platt's, a little off 0 and 1: without that, answers which a line separates would have no best one. A
    line that falls (the surer the more often wrong) is made all but level, for confidence never turns the model's order
    round. What a manifest does not allow is brought to the nearest that it does.
    """
    x = np.array([[logit(answer.probability), 1.0] for answer in answers])
    right = np.array([answer.right for answer in answers])
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / (len(right) - right.sum() + 2))
    line = np.zeros(2)
    for _ in range(most):
        p = 1 / (1 + np.exp(-x @ line))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        change = np.linalg.solve(hessian, x.T @ (target - p))
        line += change
        if np.abs(change).max() < 1e-9:
            break
    slope, intercept = map(float, line)
    if slope < LEAST_SLOPE:
        slope, intercept = LEAST_SLOPE, logit(target.mean()) - LEAST_SLOPE * float(x[:, 0].mean())
    return Curve(
        slope=min(slope, MOST_SLOPE),
        intercept=min(max(intercept, -MOST_INTERCEPT), MOST_INTERCEPT),
    )


def isotonic(answers: Sequence[Answered]) -> Curve:
    """Level over equally many answers each, neighbours that fall pooled, and straight lines from middle to middle.

    The ends reach a little beyond the outer levels, so that the order of the surest answers is kept.
    """
    ordered = sorted(answers, key=lambda answer: answer.probability)
    cuts = [round(place * len(ordered) / STEPS) for place in range(STEPS + 1)]
    blocks = [ordered[low:high] for low, high in pairwise(cuts) if high > low]
    pooled: list[list[Answered]] = []
    for block in blocks:
        pooled.append(block)
        while len(pooled) > 1 and (
            _level(pooled[-2]) >= _level(pooled[-1]) or _middle(pooled[-2]) >= _middle(pooled[-1])
        ):
            last = pooled.pop()
            pooled[-1] = pooled[-1] + last
    first, last = pooled[0], pooled[-1]
    knots = [(logit(0) - 1, _level(first, -0.5))]
    knots += [(_middle(block), _level(block)) for block in pooled]
    knots += [(logit(1) + 1, _level(last, 0.5))]
    return Curve(knots=tuple(knots))


def _level(block: Sequence[Answered], more: float = 0.0) -> float:
    """Share of right answers, with half an answer of each kind added (Krichevsky and Trofimov 1981)."""
    return (sum(answer.right for answer in block) + 0.5 + more) / (len(block) + 1)


def _middle(block: Sequence[Answered]) -> float:
    return sum(logit(answer.probability) for answer in block) / len(block)


def _enough(method: str, answers: Sequence[Answered]) -> bool:
    """Whether both curves of `platt apart` have something to go by."""
    if method != "platt apart":
        return True
    counts = [
        sum(a.none is none and a.right is right for a in answers) for none in (False, True) for right in (False, True)
    ]
    return min(counts) >= LEAST


def _held_out(fit: Fit, answers: Sequence[Answered], seed: int) -> tuple[float, ...]:
    """The confidence of each answer by a fit on the other folds. Folds have their share of each kind of answer."""
    shuffled = np.random.default_rng(seed).permutation(len(answers))
    kinds = sorted(shuffled, key=lambda place: (answers[place].none, answers[place].right))
    confidences = [0.0] * len(answers)
    for fold in range(FOLDS):
        inside = set(kinds[fold::FOLDS])
        calibration = fit([answer for place, answer in enumerate(answers) if place not in inside])
        for place in inside:
            answer = answers[place]
            curve = calibration.none if answer.none else calibration.option
            confidences[place] = curve.confidence(answer.probability)
    return tuple(confidences)


def _log_loss(confidences: Sequence[float], answers: Sequence[Answered]) -> float:
    kept = [min(max(confidence, EDGE), 1 - EDGE) for confidence in confidences]
    losses = [-math.log(c if answer.right else 1 - c) for c, answer in zip(kept, answers, strict=True)]
    return sum(losses) / len(losses)
