"""Which defects a picture gets: dimensions and severities are drawn at random, then a kind of each that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from screening.task import Dimension
from trainer.data.render.defect_kinds import KINDS, VARIATIONS
from trainer.data.render.staging import Defect, Staging

SEVERITIES: tuple[float, float, float] = (0.2, 0.4, 0.4)
"""Shares of subtle, clear and gross defects."""

DIMENSION_WEIGHTS: dict[Dimension, float] = {
    Dimension.APPEARANCE: 0.4,
    Dimension.SHADOW: 0.2,
    Dimension.LAYOUT: 0.2,
    Dimension.EXTENSION: 0.2,
}
"""Appearance is the most frequent issue in the paper's data (section 3.2)."""

SECOND_DEFECT = 0.12
"""Share of defective pictures with a second defect, of another dimension."""

T = TypeVar("T")

Plan = Sequence[tuple[Dimension | str, int]]
"""Defects of one picture: a dimension or the name of a kind, and a severity."""


def plan_defects(
    rng: np.random.Generator,
    usable: bool,
    severities: Sequence[float] = SEVERITIES,
    dimension_weights: dict[Dimension, float] | None = None,
) -> list[tuple[Dimension, int]]:
    """Draw the dimensions and severities of one picture's defects; none for a usable picture.

    Shadow and layout defects are never combined, because each would hide the other.
    """
    if usable:
        return []
    weights = dimension_weights or DIMENSION_WEIGHTS
    names = list(weights)
    first = _pick(rng, names, [weights[d] for d in names])
    plan = [(first, _severity(rng, severities))]
    if rng.random() < SECOND_DEFECT:
        pair = {Dimension.SHADOW, Dimension.LAYOUT}
        others = [d for d in names if d is not first and {d, first} != pair and weights[d] > 0]
        if others:
            plan.append((_pick(rng, others, [weights[d] for d in others]), _severity(rng, severities)))
    return plan


def apply_plan(
    staging: Staging, plan: Plan, rng: np.random.Generator, kind_weights: Mapping[str, float] | None = None
) -> tuple[Defect, ...]:
    """Choose a kind for every planned defect among those that fit, or take the planned kind, and apply it.

    Args:
        kind_weights: how often a kind is chosen compared with the others that fit; 1 for kinds that it does not name.

    Raises:
        ValueError: a severity is outside 1-3, a dimension occurs twice, or no kind fits.
    """
    if len(dimensions_of(plan)) != len(plan):
        raise ValueError("a plan must name each dimension at most once")
    defects = []
    for what, severity in plan:
        if severity not in (1, 2, 3):
            raise ValueError(f"severity {severity} is not 1, 2 or 3")
        fitting = [
            n for n, k in KINDS.items() if what in (n, k.dimension) and severity in k.severities and k.fits(staging)
        ]
        if not fitting:
            name = what.short if isinstance(what, Dimension) else what
            raise ValueError(f"no {name} defect of severity {severity} fits this picture")
        if kind_weights:
            name = _pick(rng, fitting, [kind_weights.get(n, 1.0) for n in fitting])
        else:
            name = fitting[int(rng.integers(len(fitting)))]
        kind = KINDS[name]
        attribute = kind.apply(staging, severity, rng)
        defects.append(Defect(kind.dimension, name, severity, kind.comment, attribute))
    return tuple(defects)


def dimensions_of(plan: Plan) -> set[Dimension]:
    """The dimensions of the defects in a plan."""
    return {what if isinstance(what, Dimension) else KINDS[what].dimension for what, _ in plan}


def vary(staging: Staging, rng: np.random.Generator, share: float = 0.4) -> tuple[Defect, ...]:
    """Change several attributes of a rendered product at once, each with the same probability.

    A defective picture differs in a single attribute, so each one rarely differs. A model learns to compare faster from
    pictures in which every attribute differs about half of the time.
    """
    defects = []
    for names in VARIATIONS:
        fitting = [name for name in names if KINDS[name].fits(staging)]
        if fitting and rng.random() < share:
            name = fitting[int(rng.integers(len(fitting)))]
            kind = KINDS[name]
            severity = int(rng.choice(kind.severities))
            attribute = kind.apply(staging, severity, rng)
            defects.append(Defect(kind.dimension, name, severity, kind.comment, attribute))
    return tuple(defects)


def _pick(rng: np.random.Generator, names: list[T], weights: list[float]) -> T:
    return names[int(rng.choice(len(names), p=np.array(weights) / sum(weights)))]


def _severity(rng: np.random.Generator, severities: Sequence[float]) -> int:
    return 1 + int(rng.choice(3, p=np.array(severities, float) / sum(severities)))
