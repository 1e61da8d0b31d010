"""Probes prove which weights an engine holds.

vLLM takes up a broken set of weights without a word in several ways: a missing tensor keeps the old one, a missing part
of a fused one stays uninitialised, NaN gives empty answers. So a checkpoint carries a few questions with answers, and
the log-probabilities of the last tokens of each as the checkpoint itself gave them when it was published. An engine
that claims to hold the checkpoint must give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Finding, Mode, compose, render
from screening.prompt import PICTURES_PER_SAMPLE
from screening.task import OPTIONS, Dimension

_BLOCKS = 8
"""A probe's picture is a grid of this many coloured blocks per side."""


class Probe(BaseModel):
    """One question with its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(ge=0)
    """Of its pictures; see `probe_pictures`."""
    mode: Mode
    answer: str
    """Put behind the prompt; nothing is generated."""
    logprobs: tuple[float, ...] = Field(min_length=1)
    """Natural log-probabilities of the last tokens of prompt and answer, as many as there are here."""


class Probes(BaseModel):
    """All probes of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    questions: tuple[Probe, ...] = Field(min_length=1)
    tolerance: float = Field(gt=0)
    """Largest difference of one log-probability that repeats explain."""


def probe_pictures(seed: int, size: int) -> tuple[Image.Image, ...]:
    """Original, A, B, C, D: squares of `size` pixels that follow from the seed alone, on every machine."""
    rng = np.random.default_rng([seed, size])
    places = np.arange(size) * _BLOCKS // size
    blocks = rng.integers(0, 256, (PICTURES_PER_SAMPLE, _BLOCKS, _BLOCKS, 3), dtype=np.uint8)
    return tuple(Image.fromarray(picture[places][:, places]) for picture in blocks)


def probe_answers() -> list[tuple[Mode, str]]:
    """What probes ask about: all marks of the grammar, every dimension, both modes."""
    dimensions = [frozenset[Dimension](), *(frozenset({d}) for d in Dimension)]
    answers = []
    for turn in range(2):
        findings = tuple(
            Finding(option, dimensions[(place + 2 * turn) % len(dimensions)], "as it is")
            for place, option in enumerate(OPTIONS)
        )
        answer = compose(frozenset(f.option for f in findings if not f.dimensions), findings, opening="A bottle.")
        answers += [(mode, render(answer, mode)) for mode in Mode]
    return answers


def deviation(probe: Probe, found: Sequence[float]) -> float:
    """Largest absolute difference between a probe's log-probabilities and those found; infinite for NaN."""
    if len(found) != len(probe.logprobs) or not all(map(math.isfinite, found)):
        return math.inf
    return max(abs(a - b) for a, b in zip(probe.logprobs, found, strict=True))
