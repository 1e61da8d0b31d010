"""Fits calibration curves by several methods and chooses the best by cross-validation. Position bias is removed first.

The methods are Platt scaling (Platt 1999: a line through the log-odds, with his smoothed targets) and isotonic
regression (Zadrozny and Elkan 2002); Niculescu-Mizil and Caruana 2005 compare them. Only curves that a manifest can
hold in a few numbers are tried. scikit-learn does not fit them: Platt's slope and intercept are bounded here, and the
isotonic curve has at most `STEPS` levels and never ties, so that the order of answers stays.

Answers are weighted. Doubtful decisions are reviewed more often than others, and more of them are wrong. Weighting each
answer by the inverse of its probability of being drawn corrects that (Horvitz and Thompson 1952).

Several answers about one product are in one fold of the cross-validation. Otherwise a fit would have seen the product
of the answers on which it is judged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

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
from trainer.evaluation.calibrate.evidence import Answered, CalibrationError, ReadAnswer, products_of

FOLDS = 10
LEAST = 20
"""Number of right answers, and of wrong ones, that a curve needs at least."""
FEW = 5
"""Votes that are added to each position, so that a few answers shift little."""
STEPS = 8
"""Maximum number of levels of an isotonic curve."""

Fit = Callable[[Sequence[Answered]], Calibration]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """The best method, fitted on all answers, and the losses of all methods."""

    calibration: Calibration
    losses: dict[str, float]
    """Mean negative log-likelihood (nats) of held-out answers, per method."""
    confidences: tuple[float, ...]
    """Confidence that the best method gives each answer if it is fitted without its product, like that of a new answer.
    Position shifts are fitted on all answers, because they are only four numbers."""


def calibrate(read: Sequence[ReadAnswer], seed: int = 0) -> Choice:
    """Fit position shifts, and then the curve for the choices that follow from them.

    Raises:
        CalibrationError: there are too few answers to tell.
    """
    shifted = Calibration(shifts=position_shifts(read))
    choice = choose([answer.answered(shifted) for answer in read], seed)
    calibration = choice.calibration.model_copy(update={"shifts": shifted.shifts})
    return dataclasses.replace(choice, calibration=calibration)


def position_shifts(read: Sequence[ReadAnswer], rounds: int = 200) -> Shifts:
    """Shifts with which each position is chosen as often as it occurs in the labels (`AC` counts half for A).

    A shift changes only the choice among several options that an answer names; answers count by their weights. Each
    round moves every position by the log of wanted over found, in ever smaller steps, and the best round is taken. A
    few votes for every position are added to both counts, so that a few answers shift little. Shifts that make u(X)
    right on average over all pictures were tried. They did not bring the choices nearer to the labels, for only the
    order among usable pictures counts.
    """
    named = [answer for answer in read if answer.options]
    if not named:
        return Shifts()
    log_odds = np.array(
        [[logit(a.usable[option]) if option in a.options else -np.inf for option in OPTIONS] for a in named]
    )
    weights = np.array([a.weight for a in named])
    labelled = [a for a in read if a.label]
    votes = np.array([[a.weight * (option in a.label) / len(a.label) for option in OPTIONS] for a in labelled])
    wanted = votes.sum(0) * weights.sum() / (sum(a.weight for a in labelled) or 1) + FEW
    shifts, best, least = np.zeros(len(OPTIONS)), np.zeros(len(OPTIONS)), math.inf
    for number in range(rounds):
        found = np.bincount((log_odds + shifts).argmax(1), weights, minlength=len(OPTIONS)) + FEW
        if (distance := np.abs(found - wanted).sum()) < least:
            best, least = shifts, distance
        step = 0.5 / (1 + number / 20) * np.log(wanted / found)
        shifts = (shifts + step - step.mean()).clip(-MOST_SHIFT, MOST_SHIFT)
    return Shifts(**dict(zip(OPTIONS, best.tolist(), strict=True)))


def choose(answers: Sequence[Answered], seed: int = 0) -> Choice:
    """Choose the method with the lowest cross-validated log-loss; of equal ones the simpler.

    Raises:
        CalibrationError: there are too few answers to tell.
    """
    right = sum(answer.right for answer in answers)
    if min(right, len(answers) - right) < LEAST:
        raise CalibrationError(
            f"{right} right and {len(answers) - right} wrong answers are too few: at least {LEAST} of each are needed. "
            "Evaluate on more samples"
        )
    if (worth := _weight(answers)) < LEAST:
        raise CalibrationError(
            f"{len(answers)} answers with such unequal weights say as much as {worth:.0f} equal ones, and at least "
            f"{LEAST} are needed. Review more decisions that were drawn at random (audit)"
        )
    if (products := len(set(products_of(answers)))) < FOLDS:
        raise CalibrationError(
            f"{len(answers)} answers about {products} products are too few: answers about at least {FOLDS} are needed. "
            "Evaluate on more products"
        )
    held_out = {name: _held_out(fit, answers, seed) for name, fit in METHODS.items() if _enough(name, answers)}
    losses = {name: _log_loss(confidences, answers) for name, confidences in held_out.items()}
    best = min(losses, key=losses.__getitem__)
    fitted = METHODS[best](answers).model_copy(update={"method": best, "answers": len(answers)})
    return Choice(fitted, losses, held_out[best])


def as_it_is(_answers: Sequence[Answered]) -> Calibration:
    """No calibration: the probability is the confidence."""
    return UNCALIBRATED


def one_line(answers: Sequence[Answered]) -> Calibration:
    """Platt scaling with one line for pictures and `N`."""
    curve = platt(answers)
    return Calibration(option=curve, none=curve)


def two_lines(answers: Sequence[Answered]) -> Calibration:
    """Platt scaling with separate lines for pictures and `N`, whose probabilities come from different formulas."""
    option, none = ([answer for answer in answers if answer.none is kind] for kind in (False, True))
    # A fold may hold all products with answers of one kind. Then nothing is known about this kind outside of it.
    return Calibration(
        option=platt(option) if option else UNCALIBRATED.option, none=platt(none) if none else UNCALIBRATED.none
    )


def steps(answers: Sequence[Answered]) -> Calibration:
    """Isotonic regression with one curve for pictures and `N`."""
    curve = isotonic(answers)
    return Calibration(option=curve, none=curve)


METHODS: dict[str, Fit] = {"none": as_it_is, "platt": one_line, "platt apart": two_lines, "isotonic": steps}
"""Methods from simple to flexible."""


def platt(answers: Sequence[Answered]) -> Curve:
    """Fit the line through the log-odds that has the highest likelihood.

    Targets are Platt's, slightly off 0 and 1: otherwise answers that a line separates would have no best line. A
    falling line (the surer, the more often wrong) is made nearly level, because a calibration must not reverse the
    model's order. Slope and intercept are cut to the range that a manifest allows.
    """
    x = np.array([logit(answer.probability) for answer in answers])
    right = np.array([answer.right for answer in answers])
    weights = np.array([answer.weight for answer in answers])
    hits, misses = weights[right].sum(), weights[~right].sum()
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
    slope, intercept = likeliest_line(x, target, weights)
    if slope < LEAST_SLOPE:
        middle = np.average(np.column_stack([target, x]), axis=0, weights=weights)
        slope, intercept = LEAST_SLOPE, logit(float(middle[0])) - LEAST_SLOPE * float(middle[1])
    return Curve(
        slope=min(slope, MOST_SLOPE),
        intercept=min(max(intercept, -MOST_INTERCEPT), MOST_INTERCEPT),
    )


def likeliest_line(x: Array, target: Array, weights: Array, most: int = 100) -> tuple[float, float]:
    """Find the slope and intercept of the highest likelihood by Newton's method.

    A whole step can miss the best line by far, and then all later steps do: for example, if few wrong answers are
    nearly as sure as many right ones. So a step is halved until the likelihood no longer falls.

    Args:
        x: log-odds of the answers.
        target: probability that each answer should get, between 0 and 1.
    """
    points, line = np.column_stack([x, np.ones_like(x)]), np.zeros(2)

    def loss(tried: Array) -> float:
        at = points @ tried
        return float(weights @ (np.logaddexp(0.0, at) - target * at))

    for _ in range(most):
        p = np.exp(-np.logaddexp(0.0, -(points @ line)))
        hessian = (points * (weights * p * (1 - p))[:, None]).T @ points
        # Least squares, because the matrix is singular if all answers have the same probability.
        change = np.linalg.lstsq(hessian, points.T @ (weights * (target - p)), rcond=None)[0]
        while loss(line + change) > loss(line):
            change /= 2
        line += change
        if np.abs(change).max() < 1e-9:
            break
    return float(line[0]), float(line[1])


def isotonic(answers: Sequence[Answered]) -> Curve:
    """Fit levels over equally many answers, pool falling neighbours, and join the middles by straight lines.

    The ends reach a little beyond the outer levels, which keeps the order of the surest answers.
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
    return (sum(answer.weight * answer.right for answer in block) + 0.5 + more) / (_weight(block) + 1)


def _middle(block: Sequence[Answered]) -> float:
    return sum(answer.weight * logit(answer.probability) for answer in block) / _weight(block)


def _weight(block: Sequence[Answered]) -> float:
    return sum(answer.weight for answer in block)


def _enough(method: str, answers: Sequence[Answered]) -> bool:
    """Whether there are enough answers for a method: `platt apart` needs `LEAST` of each kind for both curves."""
    if method != "platt apart":
        return True
    counts = [
        sum(a.none is none and a.right is right for a in answers) for none in (False, True) for right in (False, True)
    ]
    return min(counts) >= LEAST


def _held_out(fit: Fit, answers: Sequence[Answered], seed: int) -> tuple[float, ...]:
    """Confidence of each answer by a fit on the other folds.

    The folds are stratified by kind and correctness. A product is in one fold with all of its answers.
    """
    shuffled = np.random.default_rng(seed).permutation(len(answers))
    kinds = sorted(shuffled, key=lambda place: (answers[place].none, answers[place].right))
    products, folds = products_of(answers), dict[Hashable, int]()
    for place in kinds:
        folds.setdefault(products[place], len(folds) % FOLDS)
    confidences = [0.0] * len(answers)
    for fold in range(FOLDS):
        inside = {place for place in kinds if folds[products[place]] == fold}
        calibration = fit([answer for place, answer in enumerate(answers) if place not in inside])
        for place in inside:
            answer = answers[place]
            curve = calibration.none if answer.none else calibration.option
            confidences[place] = curve.confidence(answer.probability)
    return tuple(confidences)


def _log_loss(confidences: Sequence[float], answers: Sequence[Answered]) -> float:
    kept = [min(max(confidence, EDGE), 1 - EDGE) for confidence in confidences]
    losses = [-answer.weight * math.log(c if answer.right else 1 - c) for c, answer in zip(kept, answers, strict=True)]
    return sum(losses) / _weight(answers)
