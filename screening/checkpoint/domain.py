"""Whether a picture is of the kind that a checkpoint was trained on: the manifest's `domain` block and its score.

A model answers a question about any picture with the same certainty. `trainer domain` therefore describes the features
of the training data's pictures (`screening.inference.picture_features`): their mean, the directions in which they vary
most, and how little they vary in all other directions (a Gaussian over principal components, with one variance for the
rest). The score of a picture is its distance from that description, divided by the threshold:

    z      = (features - center) / scale              each feature separately
    inside = mean of (direction_i . z)^2 / variance_i
    beyond = |z|^2 without its share in the directions, per remaining dimension, / rest
    score  = max(inside, beyond) / threshold

A picture with a score of 1 or more is out of the domain. The threshold was fitted on whole questions of held-out data
from the domain, so the share of them with any picture at or above 1 is known.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from screening.errors import CheckpointError
from screening.prompt import PICTURES_PER_SAMPLE
from screening.task import OPTIONS

Array = np.ndarray[Any, np.dtype[np.float64]]

MAX_WIDTH = 16_384
"""Maximum number of features of a picture. The paper's models have 1,040: the width of the vision tower, and 16."""
MAX_RANK = 64
"""Maximum number of directions that are described. A direction takes two bytes per feature in the manifest."""
PICTURE_NAMES = ("original", *OPTIONS)
"""Names of a question's pictures in an answer."""


class DomainError(ValueError):
    """The features of a picture have another width than the description, or are not finite."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FeatureStatistics(_Strict):
    """A Gaussian over principal components. Its arrays are little-endian and encoded in base64."""

    width: int = Field(ge=2, le=MAX_WIDTH)
    rank: int = Field(ge=1, le=MAX_RANK)
    center: str
    """Mean of each feature: (width) float32."""
    scale: str
    """Standard deviation of each feature: (width) float32, above 0."""
    directions: str
    """Principal directions: (rank, width) float16, each of length 1."""
    variances: tuple[float, ...]
    """Variance in each principal direction."""
    rest: float = Field(gt=0)
    """Variance in each of the other directions."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rank >= self.width or len(self.variances) != self.rank:
            raise ValueError("there must be one variance for each direction, and fewer directions than features")
        if min(self.variances) <= 0 or not np.all(self._arrays[1] > 0):
            raise ValueError("variances and scales must be above 0")
        lengths = np.linalg.norm(self._arrays[2], axis=1)
        if not np.allclose(lengths, 1.0, atol=0.01):
            raise ValueError("directions must be of length 1")
        return self

    @classmethod
    def of(cls, features: Array, rank: int) -> Self:
        """Describe the features of many pictures.

        Args:
            features: (pictures, width); there must be many more pictures than `rank`.
        """
        center = features.mean(0)
        # Without a floor, a feature that never varies in the data would make every other value infinitely far away.
        scale = np.maximum(features.std(0), 1e-3)
        deviations = (features - center) / scale
        _, lengths, directions = np.linalg.svd(deviations, full_matrices=False)
        variances = lengths**2 / len(features)
        rest = variances[rank:].sum() / (features.shape[1] - rank)
        return cls(
            width=features.shape[1],
            rank=rank,
            center=_pack(center, "<f4"),
            scale=_pack(scale, "<f4"),
            directions=_pack(directions[:rank], "<f2"),
            variances=tuple(float(value) for value in variances[:rank]),
            rest=float(rest),
        )

    @property
    def _arrays(self) -> tuple[Array, Array, Array]:
        return _read_arrays(self.center, self.scale, self.directions, self.width, self.rank)

    def distances(self, features: Array) -> Array:
        """Return the distance of pictures from the description. It is about 1 for an ordinary picture.

        Args:
            features: (pictures, width).

        Returns:
            (pictures).

        Raises:
            DomainError: the features have another width, or are not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise DomainError(f"features of shape {features.shape} do not fit statistics of width {self.width}")
        if not np.isfinite(features).all():
            raise DomainError("a picture's features are not finite")
        center, scale, directions = self._arrays
        deviations = (features - center) / scale
        along = deviations @ directions.T
        inside = (along**2 / np.array(self.variances)).mean(1)
        beyond = np.maximum((deviations**2).sum(1) - (along**2).sum(1), 0.0) / (self.width - self.rank) / self.rest
        distances: Array = np.maximum(inside, beyond)
        return distances


class DomainProbe(_Strict):
    """Recorded scores of pictures that every service can make. An engine must give the same scores."""

    seed: int = Field(ge=0)
    """Seed of the pictures; see `screening.checkpoint.probes.probe_pictures`."""
    scores: tuple[float, ...] = Field(min_length=PICTURES_PER_SAMPLE, max_length=PICTURES_PER_SAMPLE)
    """Scores in the order of the pictures."""


class DomainCalibration(_Strict):
    """The data that the statistics and the threshold were fitted on."""

    data: tuple[str, ...]
    """Digests of the data directories."""
    pictures: int = Field(ge=1)
    """Number of pictures that the statistics were fitted on."""
    questions: int = Field(ge=1)
    """Number of questions that the threshold was fitted on."""
    target: float = Field(gt=0, lt=1)
    """Share of questions from the domain that the threshold was fitted to flag."""


class DomainRule(_Strict):
    """The part of a domain that an answer needs."""

    trained_on: str = Field(min_length=1, max_length=200)
    """Description of the domain in words, such as "rendered product pictures"."""
    confidence_cap: float = Field(ge=0, le=0.5)
    """Maximum confidence of an answer about pictures out of the domain: the accuracy of a blind guess on the data."""


class Domain(DomainRule):
    """The manifest's `domain` block, written by `trainer domain`."""

    features: Literal["tower-mean-and-cells"] = "tower-mean-and-cells"
    """Kind of features that `screening.inference.picture_features` computes."""
    statistics: FeatureStatistics
    threshold: float = Field(gt=0, le=1e6)
    """Distance at which a picture begins to be out of the domain."""
    calibration: DomainCalibration
    probes: tuple[DomainProbe, ...] = ()
    """Probes that `trainer domain` records. The service compares them at its start and at each swap."""
    tolerance: float = Field(default=0.1, gt=0, le=0.25)
    """Maximum relative difference of a probe's score that rounding explains."""

    @property
    def rule(self) -> DomainRule:
        """The part that an answer needs."""
        return DomainRule(trained_on=self.trained_on, confidence_cap=self.confidence_cap)

    def scores(self, features: Sequence[Any]) -> tuple[float, ...]:
        """Return the scores of pictures from their features. A score of 1 or more is out of the domain.

        Raises:
            DomainError: the features have another width, or are not finite.
        """
        try:
            stacked = np.stack([np.asarray(each, dtype=np.float64) for each in features])
        except ValueError as error:
            raise DomainError(f"the features of the pictures differ in width: {error}") from error
        return tuple(float(distance) / self.threshold for distance in self.statistics.distances(stacked))

    def verify(self, found: Sequence[Sequence[float] | None]) -> None:
        """Check that an engine scores the probes' pictures as recorded, so the statistics belong to its weights.

        Args:
            found: the engine's scores of each probe's pictures; None if the engine gives no features.

        Raises:
            CheckpointError: no probes are recorded, or a score is missing or differs by more than the tolerance.
        """
        if not self.probes:
            raise CheckpointError("the checkpoint's domain has no probes. Run `python -m trainer domain` again")
        off = max(self.deviation(probe, scores or ()) for probe, scores in zip(self.probes, found, strict=True))
        if off > self.tolerance:
            raise CheckpointError(
                f"the engine does not give the domain's scores: they differ by {off:.3g}, and the tolerance is "
                f"{self.tolerance:.3g}. If the domain was fitted to other weights, run `python -m trainer domain` again"
            )

    def deviation(self, probe: DomainProbe, found: Sequence[float]) -> float:
        """Return the largest relative difference of recorded and found scores; infinite if their number differs."""
        if len(found) != len(probe.scores) or not np.isfinite(found).all():
            return float("inf")
        return max(abs(a - b) / max(abs(a), 1.0) for a, b in zip(probe.scores, found, strict=True))


def strange_pictures(scores: Sequence[float]) -> tuple[str, ...]:
    """Return the names of the pictures that are out of the domain, in the order of the question."""
    return tuple(name for name, score in zip(PICTURE_NAMES, scores, strict=True) if score >= 1.0)


def _pack(values: Array, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


@lru_cache(maxsize=8)
def _read_arrays(center: str, scale: str, directions: str, width: int, rank: int) -> tuple[Array, Array, Array]:
    """Return center, scale and directions. They are not fields of the model, whose `==` would compare arrays."""
    return (
        _unpack(center, "<f4", (width,)),
        _unpack(scale, "<f4", (width,)),
        _unpack(directions, "<f2", (rank, width)),
    )


def _unpack(text: str, kind: str, shape: tuple[int, ...]) -> Array:
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype=kind).astype(np.float64)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"an array is not base64-encoded {kind}: {error}") from error
    if values.size != np.prod(shape) or not np.isfinite(values).all():
        raise ValueError(f"an array does not hold finite numbers of shape {shape}")
    return values.reshape(shape)
