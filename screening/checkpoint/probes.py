"""Probes prove which weights an engine holds.

vLLM takes up a broken set of weights without a word in several ways: a missing tensor keeps the old one, a missing part
of a fused one stays uninitialised, NaN gives empty answers. So a checkpoint carries a few questions with answers, and
the log-probabilities of the last tokens of each as the checkpoint itself gave them when it was published. An engine
that claims to hold the checkpoint must give the same numbers.

The same numbers to how many digits? The machine that recorded them repeats them almost exactly. Another kind of
processor, or another version of vLLM, adds the same bfloat16 products in another order and rounds otherwise: about 0.1
in a single log-probability of the tiny checkpoint. Its numbers scatter around those of float32 as far as the recording
ones do. So the probes hold both, and there are two ways to prove a checkpoint:

- *by repetition*: every number is the recorded one, within what repeats differ by;
- *by rounding*: all numbers together are as near to float32's as rounding explains (root mean square, which over a
  hundred tokens hardly varies, while the largest one does).

Repetition sees a single flipped bit of a single weight; rounding does not see what changes answers less than rounding
itself does. Which of the two an engine has to pass is for the service to decide (service/checkpoints/verification.py).

The probes also record how text becomes tokens and what the calibration makes of probabilities, and they are tied to
everything that they were recorded on (`screening.checkpoint.seal`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Annotated, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from screening.answer import Finding, Mode, compose, render
from screening.prompt import PICTURES_PER_SAMPLE
from screening.task import OPTIONS, STANDARD_DIMENSIONS, Dimension

ROUNDING_MARGIN = 1.5
"""How many times the recording machine's rounding another machine may be away from float32. Found for the tiny
checkpoint: 1.0 to 1.1 on three kinds of processor, 1.3 on a fourth, 1.2 to 1.6 with one stale bias or normalisation,
7 with one stale projection, 38 with a stale head (docs/decisions/hot-swap.md)."""
LEAST_ROUNDING = 0.005
"""Where the recording engine hardly rounded, another one may do a little more."""
MOST_ROUNDING = 0.1
"""Root mean square that an engine may be away from float32's numbers, whatever the recording one was. Found for the
tiny checkpoint: 0.031 for a machine with AMX, 0.041 for one without AVX-512."""
MOST_TOLERANCE = 1.0
"""Repeats that differ more prove nothing. Found: 0 for the tiny checkpoint, 0.06 for random weights of the 2B."""
_BLOCKS = 8
"""A probe's picture is a grid of this many coloured blocks per side."""


Sha256 = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
LogProbability = Annotated[float, Field(ge=-10_000, le=0.1)]
"""0 at most, but for rounding."""


class Probe(BaseModel):
    """One question with its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(ge=0, le=2**32)
    """Of its pictures; see `probe_pictures`."""
    mode: Mode
    answer: str = Field(max_length=10_000)
    """Put behind the prompt; nothing is generated."""
    logprobs: tuple[LogProbability, ...] = Field(min_length=1, max_length=4096)
    """Natural log-probabilities of the last tokens of prompt and answer, as many as there are here."""
    exact: tuple[LogProbability, ...] | None = None
    """The same in float32; None where no engine in float32 was asked."""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if self.exact is not None and len(self.exact) != len(self.logprobs):
            raise ValueError("exact and logprobs are of the same tokens")
        return self


class Reading(BaseModel):
    """What an engine reads besides the weights, and how that turns text into tokens; see
    `screening.inference.inspection`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary: Sha256
    """Of what each token spells, and of the tokens of a text that holds all of them."""
    prompts: dict[Mode, Sha256]
    """Of the tokens of each mode's question, as the template writes it."""
    files: Sha256 | None = None
    """Of the names and digests of all files besides the weights. None was recorded before there was this."""


class Probes(BaseModel):
    """All probes of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    questions: tuple[Probe, ...] = Field(min_length=1, max_length=64)
    tolerance: float = Field(gt=0, le=MOST_TOLERANCE)
    """Largest difference of one log-probability that repeats explain."""
    machine: str | None = Field(default=None, max_length=1000)
    """What recorded them: see `screening.runtime.machine`."""
    reading: Reading | None = None
    """None where no tokenizer was asked; such a checkpoint is not served by vLLM."""
    confidences: dict[Mode, tuple[float, ...]] = {}
    """What each mode's calibration makes of fixed probabilities; see `screening.calibration.trace`."""
    seal: Sha256 | None = None
    """Digest over everything that they were recorded on, and themselves; see `screening.checkpoint.seal`."""

    @model_validator(mode="after")
    def _near_float32(self) -> Self:
        if self.rounding is not None and self.rounding > MOST_ROUNDING:
            raise ValueError(f"exact and logprobs are {self.rounding:.3g} apart on average, which is no rounding")
        return self

    @property
    def rounding(self) -> float | None:
        """Root mean square of what separates `logprobs` from `exact`; None without `exact`."""
        exact = [probe.exact for probe in self.questions if probe.exact is not None]
        if len(exact) < len(self.questions):
            return None
        return root_mean_square(exact, [probe.logprobs for probe in self.questions])

    def repeated(self, found: Sequence[Sequence[float]], given: Sequence[Sequence[float]] | None = None) -> bool:
        """Whether these log-probabilities, a list per question, are those recorded.

        Args:
            given: what they must be in place of those recorded.
        """
        return self.deviation(found, given) <= self.tolerance  # so that NaN proves nothing

    def rounded(self, found: Sequence[Sequence[float]]) -> bool:
        """Whether rounding explains how far these log-probabilities are from float32's."""
        if (rounding := self.rounding) is None:
            return False
        return self.from_exact(found) <= min(ROUNDING_MARGIN * max(rounding, LEAST_ROUNDING), MOST_ROUNDING)

    def from_exact(self, found: Sequence[Sequence[float]]) -> float:
        """Root mean square of what separates these log-probabilities from float32's."""
        return root_mean_square([probe.exact or () for probe in self.questions], found)

    def deviation(self, found: Sequence[Sequence[float]], given: Sequence[Sequence[float]] | None = None) -> float:
        """The largest difference between a log-probability recorded, or given, and the one found."""
        wanted = given or [probe.logprobs for probe in self.questions]
        if len(found) != len(wanted):
            return math.inf
        return max(map(deviation, wanted, found))


def probe_pictures(seed: int, size: int) -> tuple[Image.Image, ...]:
    """Original, A, B, C, D: squares of `size` pixels that follow from the seed alone, on every machine."""
    rng = np.random.default_rng([seed, size])
    places = np.arange(size) * _BLOCKS // size
    blocks = rng.integers(0, 256, (PICTURES_PER_SAMPLE, _BLOCKS, _BLOCKS, 3), dtype=np.uint8)
    return tuple(Image.fromarray(picture[places][:, places]) for picture in blocks)


def probe_answers(dimensions: Collection[Dimension] = STANDARD_DIMENSIONS) -> list[tuple[Mode, str]]:
    """What probes ask about: all marks of the grammar, every dimension of a checkpoint, both modes."""
    verdicts = [frozenset[Dimension](), *(frozenset({d}) for d in dimensions)]
    answers = []
    # Each answer has four verdicts and begins two further on than the one before: enough of them show every verdict.
    for turn in range(max(2, (len(verdicts) - 1) // 2)):
        findings = tuple(
            Finding(option, verdicts[(place + 2 * turn) % len(verdicts)], "as it is")
            for place, option in enumerate(OPTIONS)
        )
        answer = compose(frozenset(f.option for f in findings if not f.dimensions), findings, opening="A bottle.")
        answers += [(mode, render(answer, mode)) for mode in Mode]
    return answers


def deviation(wanted: Sequence[float], found: Sequence[float]) -> float:
    """Largest absolute difference between a probe's log-probabilities and those found; infinite for NaN."""
    if len(found) != len(wanted) or not all(map(math.isfinite, found)):
        return math.inf
    return max(abs(a - b) for a, b in zip(wanted, found, strict=True))


def root_mean_square(wanted: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """Of the differences over all tokens of all questions; infinite for NaN, or for another number of tokens."""
    if [len(one) for one in wanted] != [len(one) for one in found]:
        return math.inf
    squares = [(a - b) ** 2 for one, other in zip(wanted, found, strict=True) for a, b in zip(one, other, strict=True)]
    mean = math.fsum(squares) / len(squares) if all(map(math.isfinite, squares)) else math.inf
    return math.sqrt(mean)
