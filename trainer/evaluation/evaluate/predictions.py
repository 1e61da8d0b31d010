"""`predictions.jsonl`: the log of answers (`trainer.runs.json_log`), from which a killed run resumes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Answer, Finding, Reason, Region, Unreadable
from screening.boxes import Box
from screening.runtime.atomic_write import write_atomically
from screening.task import NONE, Dimension
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.identity import Identity
from trainer.judged import Judged
from trainer.records import Sample
from trainer.runs.json_log import JsonLog, LogError, open_log, read_log
from trainer.runs.run_directory import claim

PREDICTIONS_NAME = "predictions.jsonl"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StatedRegion(_Record):
    """Where an issue is on the picture, as the model said; see `screening.answer.Region`."""

    dimension: Dimension
    box: Box


class StatedFinding(_Record):
    """The verdict of the reasoning about one picture; see `screening.answer.Finding`."""

    option: str
    dimensions: tuple[Dimension, ...] | None
    comment: str
    regions: tuple[StatedRegion, ...] = ()
    dropped_boxes: int = 0

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Make a record of a finding, with its dimensions in the order of the enumeration."""
        named = finding.dimensions
        dimensions = None if named is None else tuple(dimension for dimension in Dimension if dimension in named)
        regions = tuple(StatedRegion(dimension=one.dimension, box=one.box) for one in finding.regions)
        return cls(
            option=finding.option,
            dimensions=dimensions,
            comment=finding.comment,
            regions=regions,
            dropped_boxes=finding.dropped_boxes,
        )

    def read(self) -> Finding:
        """The finding as the parser gave it."""
        dimensions = None if self.dimensions is None else frozenset(self.dimensions)
        regions = tuple(Region(one.dimension, one.box) for one in self.regions)
        return Finding(self.option, dimensions, self.comment, regions, self.dropped_boxes)


class UnreadableAnswer(_Record):
    """Why the text is not an answer."""

    reason: Reason
    detail: str


class Prediction(_Record):
    """One answered sample."""

    id: str
    label: str
    text: str
    """The model's whole output."""
    finish: str
    """Why the output ended: `stop`, or `length` if it was cut at the limit. An endpoint may give other reasons, such as
    `content_filter`. `refused` marks a request that the endpoint refused; its text is empty."""
    options: str | None
    """Letters in order, or `N`; None if the answer is unreadable."""
    unreadable: UnreadableAnswer | None
    correct: bool
    """Whether `options` is right by the paper's rule; see `trainer.judged.correct`."""
    choice: str | None
    """The one option that the service would give: the most probable of those named. None if the answer is unreadable or
    probabilities are unknown."""
    confidence: float | None = Field(ge=0, le=1)
    """Calibrated confidence of the choice; 0 if unreadable, None if probabilities are unknown (at an endpoint)."""
    probability: float | None = Field(None, ge=0, le=1)
    """Confidence before the calibration curve is applied; None if it is unknown, as for an unreadable answer."""
    usable: dict[str, float] = {}
    """u(X) of `screening.confidence`, before calibration, for each option where it could be read."""
    findings: tuple[StatedFinding, ...]
    prompt_tokens: int | None
    """None if the endpoint does not count tokens."""
    completion_tokens: int | None
    domain_score: float | None = None
    """Highest out-of-domain score of the sample's pictures; 1 and above is flagged. None if it is unknown."""
    model: str | None = None
    """Name that the endpoint gives the model that answered, often more exact than the requested name."""
    weight: float = Field(1.0, gt=0)
    """The sample's weight; see `trainer.records.SampleLine`."""
    product: str
    """The sample's product; see `trainer.products.product_of`."""

    @classmethod
    def of(
        cls,
        judged: Judged,
        *,
        text: str,
        finish: str,
        confidence: float | None,
        prompt_tokens: int | None,
        completion_tokens: int | None,
        probability: float | None = None,
        usable: Mapping[str, float] | None = None,
        domain_score: float | None = None,
        model: str | None = None,
    ) -> Self:
        """Make the record of one judged sample."""
        result = judged.result
        answer = result if isinstance(result, Answer) else None
        return cls(
            id=judged.sample.id,
            label=judged.sample.label,
            text=text,
            finish=finish,
            options=answer.text if answer else None,
            unreadable=_unreadable(result),
            correct=judged.correct,
            choice=judged.choice,
            confidence=confidence,
            probability=probability,
            usable={option: value for option, value in (usable or {}).items() if math.isfinite(value)},
            findings=tuple(StatedFinding.of(finding) for finding in (answer.findings if answer else ())),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            domain_score=domain_score,
            model=model,
            weight=judged.sample.weight or 1.0,
            product=judged.product,
        )

    @property
    def result(self) -> Answer | Unreadable:
        """The parsed answer, without its reasoning, which `text` holds."""
        if self.unreadable is not None:
            return Unreadable(self.unreadable.reason, self.unreadable.detail)
        findings = tuple(finding.read() for finding in self.findings)
        return Answer(frozenset(self.options or "") - {NONE}, None, findings)


class Predictions:
    """The open log of one evaluation. `done` maps ids to predictions, including those of earlier runs."""

    def __init__(self, path: Path, log: JsonLog[Prediction]) -> None:
        self.path = path
        self.done = {prediction.id: prediction for prediction in log.written}
        self._log = log

    def missing(self, samples: Iterable[Sample]) -> list[Sample]:
        """The samples that have no answer yet."""
        return [sample for sample in samples if sample.id not in self.done]

    def judged(self, samples: Iterable[Sample]) -> list[Judged]:
        """The samples with their answers, for scoring."""
        return [Judged(sample, self.done[sample.id].result, self.done[sample.id].choice) for sample in samples]

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Append predictions as whole lines. They are on disk when this returns."""
        new = list(predictions)
        self._log.append(new)
        self.done.update({prediction.id: prediction for prediction in new})

    def put_in_order(self, samples: Iterable[Sample]) -> None:
        """Sort the finished log by the order of the samples, so that it does not depend on when an endpoint answered.

        Nothing may be appended afterwards.
        """
        ordered = [self.done[sample.id] for sample in samples if sample.id in self.done]
        if [prediction.id for prediction in ordered] != list(self.done):
            lines = (prediction.model_dump_json(exclude_defaults=True) for prediction in ordered)
            write_atomically(self.path, "".join(f"{line}\n" for line in lines))


@contextmanager
def open_predictions(directory: Path, identity: Identity) -> Iterator[Predictions]:
    """Start an evaluation in a directory, or continue it there.

    Raises:
        RunMismatch: the directory holds another evaluation or other files.
        LogError: another process is writing the log, or it is damaged before its last line.
    """
    claim(directory, identity.origin)
    path = directory / PREDICTIONS_NAME
    with open_log(path, Prediction) as log:
        yield Predictions(path, log)


def read_predictions(directory: Path) -> dict[str, Prediction]:
    """Read the predictions of an evaluation, by sample id.

    Raises:
        EvaluationError: the directory holds no evaluation, or its log is damaged.
    """
    path = directory / PREDICTIONS_NAME
    try:
        return {prediction.id: prediction for prediction in read_log(path, Prediction)}
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}). Evaluate again") from error
    except LogError as error:
        raise EvaluationError(str(error)) from error


def _unreadable(result: Answer | Unreadable) -> UnreadableAnswer | None:
    return None if isinstance(result, Answer) else UnreadableAnswer(reason=result.reason, detail=result.detail)
