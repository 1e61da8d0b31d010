"""Draw a sample: one original, four generated pictures, the label, and the reasoning for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screening.answer import Answer, Finding, compose
from screening.task import OPTIONS, Options, options_text
from trainer.data.render.defects import SEVERITIES, plan_defects
from trainer.data.render.figure import AnyProduct
from trainer.data.render.picture import Shot, draw_generated, draw_original
from trainer.data.render.products import make_product
from trainer.data.render.scenes import SETTINGS, Setting
from trainer.data.render.words import JOINT, NORMAL_COMMENT

USABLE_COUNTS: tuple[float, ...] = (0.25, 0.32, 0.23, 0.13, 0.07)
"""Shares of samples with 0 to 4 usable pictures. If `N` has length 1, the mean answer has 1.70 letters (paper: 1.7136),
so the computed random baseline is 34 %."""


@dataclass(frozen=True)
class Sample:
    """One question with its answer."""

    id: str
    seed: int
    product: AnyProduct
    setting: str
    original: Shot
    generated: tuple[Shot, ...]
    """The generated pictures A, B, C, D."""

    @property
    def options(self) -> Options:
        """The usable pictures."""
        return frozenset(o for o, shot in zip(OPTIONS, self.generated, strict=True) if shot.usable)

    @property
    def label(self) -> str:
        """The label: `AC`, or `N`."""
        return options_text(self.options)

    def findings(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(option, frozenset(d.dimension for d in shot.defects), comment_on(shot))
            for option, shot in zip(OPTIONS, self.generated, strict=True)
        )

    def answer(self) -> Answer:
        """The complete answer: a description of the original, a finding per picture, and the conclusion."""
        return compose(self.options, self.findings(), opening=f"The original is {self.product.describe()}.")


def comment_on(shot: Shot) -> str:
    """The sentence about one picture."""
    return JOINT.join(d.comment for d in shot.defects) if shot.defects else NORMAL_COMMENT


def make_sample(
    seed: int,
    size: int,
    severities: Sequence[float] = SEVERITIES,
    usable_counts: Sequence[float] = USABLE_COUNTS,
    *,
    product: AnyProduct | None = None,
    settings: Sequence[Setting] = tuple(SETTINGS.values()),
) -> Sample:
    """Render a sample; the same seed gives the same pixels.

    Args:
        size: side of the pictures in pixels.
        severities: shares of subtle, clear and gross defects.
        usable_counts: shares of samples with 0 to 4 usable pictures.
        product: the product; None takes one at random.
        settings: the settings to choose from.
    """
    rng = np.random.default_rng(seed)
    product = product or make_product(rng)
    setting = settings[int(rng.integers(len(settings)))]
    usable = set(rng.permutation(4)[: int(rng.choice(5, p=usable_counts))].tolist())
    plans = [plan_defects(rng, i in usable, severities) for i in range(4)]
    # Every picture has its own random stream, so that a change in one does not affect the others.
    streams = rng.spawn(5)
    original = draw_original(product, streams[0], size)
    generated = tuple(
        draw_generated(product, stream, size, plan, setting=setting)
        for stream, plan in zip(streams[1:], plans, strict=True)
    )
    return Sample(f"s{seed:016x}", seed, product, setting.name, original, generated)
