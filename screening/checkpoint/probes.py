"""Probes: questions by which a service verifies which weights an engine holds.

vLLM loads some broken sets of weights without an error: if a tensor is missing, the old one stays; if a part of a fused
tensor is missing, its memory stays uninitialised; NaN leads to empty answers. A checkpoint therefore carries a few
questions with answers, and the log-probabilities of the last tokens of each answer, recorded when the checkpoint was
published. An engine that holds the checkpoint must give the same numbers.

The machine that recorded the numbers repeats them almost exactly. Another kind of processor, or another version of
vLLM, adds the same bfloat16 products in another order and rounds differently: by about 0.1 in a single log-probability
of models/tiny. Its numbers scatter around those of float32 as far as the recorded ones do. The probes therefore hold
both, and an engine can pass in two ways:

- *by repetition*: every number equals the recorded one, within the spread of repeats. An engine that computes in
  float32 must repeat the float32 numbers, on every kind of machine: two kinds differ by 0.00003 for models/tiny;
- *by rounding*: all numbers together are as close to float32's as rounding explains. The measure is the root mean
  square, which hardly varies over a hundred tokens, whereas the largest difference does.

Repetition detects a single flipped bit of a single weight. Rounding does not detect a change that has less effect than
rounding itself. The service decides which of the two an engine must pass (service/checkpoints/verification.py).

The probes also record how text becomes tokens, and which confidences the calibration gives for fixed probabilities.
They are tied to everything that they were recorded on (`screening.checkpoint.seal`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import cycle
from typing import Annotated, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from screening.answer import Finding, Mode, compose, render
from screening.prompt import PICTURES_PER_SAMPLE
from screening.task import OPTIONS, STANDARD_DIMENSIONS, Dimension

ROUNDING_MARGIN = 1.5
"""Maximum distance of an engine from float32, as a multiple of the recording engine's distance. Measured for
models/tiny: 1.0 to 1.1 on three kinds of processor, 1.3 on a fourth, 1.2 to 1.6 with one stale bias or normalisation,
7 with one stale projection, 38 with a stale head (docs/decisions/hot-swap.md)."""
LEAST_ROUNDING = 0.005
"""Lower bound of the recording engine's distance in that product: one that hardly rounds must not fail all others."""
MOST_ROUNDING = 0.1
"""Maximum distance of any engine from float32, as a root mean square. Measured for models/tiny: 0.031 on a machine with
AMX, 0.041 on one without AVX-512."""
MOST_TOLERANCE = 1.0
"""Maximum tolerance: repeats that differ more show nothing. Measured: 0 for models/tiny, 0.06 for a random 2B."""
FLOAT32_SHARE = 0.1
"""Tolerance in float32, as a share of that in bfloat16. Measured for models/tiny, whose tolerance is 0.002: two kinds
of processor differ by 0.00003, and one flipped sign makes 0.0002 to 0.1."""
_BLOCKS = 8
"""Number of coloured blocks on each side of a probe's picture."""


Sha256 = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
LogProbability = Annotated[float, Field(ge=-10_000, le=0.1)]
"""A natural log-probability. Rounding may lift it a little above 0."""


class Probe(BaseModel):
    """One question with an answer, and the log-probabilities of the answer's tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(ge=0, le=2**32)
    """Seed of the pictures; see `probe_pictures`."""
    mode: Mode
    answer: str = Field(max_length=10_000)
    """Answer that follows the prompt. The engine generates nothing."""
    logprobs: tuple[LogProbability, ...] = Field(min_length=1, max_length=4096)
    """Natural log-probabilities of the last `len(logprobs)` tokens of prompt and answer."""
    exact: tuple[LogProbability, ...] | None = None
    """The same in float32; None if no float32 engine was asked."""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if self.exact is not None and len(self.exact) != len(self.logprobs):
            raise ValueError("exact and logprobs must have the same number of tokens")
        return self


class Reading(BaseModel):
    """How a checkpoint turns text into tokens, and which files an engine reads besides the weights; see
    `screening.inference.inspection`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary: Sha256
    """Digest of the text of each token, and of the tokens of a text that holds all of them."""
    prompts: dict[Mode, Sha256]
    """Digest of the tokens of each mode's question, as the chat template writes it."""
    files: Sha256 | None = None
    """Digest of the names and hashes of all files besides the weights."""


class Probes(BaseModel):
    """All probes of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    questions: tuple[Probe, ...] = Field(min_length=1, max_length=64)
    tolerance: float = Field(gt=0, le=MOST_TOLERANCE)
    """Maximum difference of one log-probability between repeats."""
    machine: str | None = Field(default=None, max_length=1000)
    """Kind of machine that recorded them; see `screening.runtime.machine`."""
    reading: Reading | None = None
    """None if no tokenizer was asked; the vllm engine does not serve such a checkpoint."""
    confidences: dict[Mode, tuple[float, ...]] = {}
    """Confidences that each mode's calibration gives for fixed probabilities; see `screening.calibration.trace`."""
    seal: Sha256 | None = None
    """Digest over everything that they were recorded on, and over the probes; see `screening.checkpoint.seal`."""

    @model_validator(mode="after")
    def _near_float32(self) -> Self:
        if self.rounding is not None and self.rounding > MOST_ROUNDING:
            raise ValueError(
                f"the mean difference of exact and logprobs is {self.rounding:.3g}, more than rounding explains"
            )
        return self

    @property
    def exact(self) -> list[tuple[float, ...]] | None:
        """The log-probabilities in float32, a tuple per question; None if no float32 engine was asked."""
        exact = [probe.exact for probe in self.questions if probe.exact is not None]
        return exact if len(exact) == len(self.questions) else None

    @property
    def rounding(self) -> float | None:
        """Root mean square of the differences of `logprobs` and `exact`; None without `exact`."""
        if (exact := self.exact) is None:
            return None
        return root_mean_square(exact, [probe.logprobs for probe in self.questions])

    def repeated(self, found: Sequence[Sequence[float]], given: Sequence[Sequence[float]] | None = None) -> bool:
        """Whether an engine's log-probabilities, a list per question, equal the recorded ones.

        Args:
            given: the log-probabilities to compare with in place of the recorded ones.
        """
        return self.deviation(found, given) <= self.tolerance  # False for NaN

    def repeated_in_float32(self, found: Sequence[Sequence[float]]) -> bool:
        """Whether a float32 engine's log-probabilities equal the `exact` ones; False without them."""
        exact = self.exact
        return exact is not None and self.deviation(found, exact) <= FLOAT32_SHARE * self.tolerance

    def rounded(self, found: Sequence[Sequence[float]]) -> bool:
        """Whether rounding explains the distance of an engine's log-probabilities from float32's."""
        if (rounding := self.rounding) is None:
            return False
        return self.from_exact(found) <= min(ROUNDING_MARGIN * max(rounding, LEAST_ROUNDING), MOST_ROUNDING)

    def from_exact(self, found: Sequence[Sequence[float]]) -> float:
        """Return the root mean square of the differences of an engine's log-probabilities and float32's."""
        return root_mean_square([probe.exact or () for probe in self.questions], found)

    def deviation(self, found: Sequence[Sequence[float]], given: Sequence[Sequence[float]] | None = None) -> float:
        """Return the largest difference between a recorded (or given) log-probability and the one found."""
        wanted = given or [probe.logprobs for probe in self.questions]
        if len(found) != len(wanted):
            return math.inf
        return max(map(deviation, wanted, found))


def probe_pictures(seed: int, size: int, tiles: int = 1) -> tuple[Image.Image, ...]:
    """Return original, A, B, C, D, which depend on the arguments alone, on every machine.

    Args:
        size: side of a tile in pixels.
        tiles: maximum number of tiles per picture. Every picture has so many, in grids of all shapes in turn.
    """
    rng = np.random.default_rng([seed, size])
    blocks = rng.integers(0, 256, (PICTURES_PER_SAMPLE, _BLOCKS, _BLOCKS, 3), dtype=np.uint8)
    grids = cycle((tiles // rows, rows) for rows in range(1, tiles + 1) if tiles % rows == 0)
    shapes = [next(grids) for _ in blocks]
    return tuple(_enlarged(b, columns * size, rows * size) for b, (columns, rows) in zip(blocks, shapes, strict=True))


def _enlarged(blocks: np.ndarray, width: int, height: int) -> Image.Image:
    columns, rows = (np.arange(side) * _BLOCKS // side for side in (width, height))
    return Image.fromarray(blocks[rows][:, columns])


def probe_answers(dimensions: Collection[Dimension] = STANDARD_DIMENSIONS) -> list[tuple[Mode, str]]:
    """Return the answers of the probes. They cover all marks of the answer grammar, every dimension and both modes."""
    verdicts = [frozenset[Dimension](), *(frozenset({d}) for d in dimensions)]
    answers = []
    # Each answer has four verdicts and begins two further on than the previous one: enough of them show every verdict.
    for turn in range(max(2, (len(verdicts) - 1) // 2)):
        findings = tuple(
            Finding(option, verdicts[(place + 2 * turn) % len(verdicts)], "as it is")
            for place, option in enumerate(OPTIONS)
        )
        answer = compose(frozenset(f.option for f in findings if not f.dimensions), findings, opening="A bottle.")
        answers += [(mode, render(answer, mode)) for mode in Mode]
    return answers


def deviation(wanted: Sequence[float], found: Sequence[float]) -> float:
    """Return the largest absolute difference between a probe's log-probabilities and those found; infinite for NaN."""
    if len(found) != len(wanted) or not all(map(math.isfinite, found)):
        return math.inf
    return max(abs(a - b) for a, b in zip(wanted, found, strict=True))


def root_mean_square(wanted: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """Return the root mean square over all tokens of all questions; infinite for NaN or another number of tokens."""
    if [len(one) for one in wanted] != [len(one) for one in found]:
        return math.inf
    squares = [(a - b) ** 2 for one, other in zip(wanted, found, strict=True) for a, b in zip(one, other, strict=True)]
    mean = math.fsum(squares) / len(squares) if all(map(math.isfinite, squares)) else math.inf
    return math.sqrt(mean)
