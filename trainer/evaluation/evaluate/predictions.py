"""What was answered so far: `predictions.jsonl`, a log (`trainer.runs.json_log`). A killed run goes on where it
stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Answer, Finding, Reason, Unreadable
from screening.runtime.atomic_write import write_atomically
from screening.task import NONE, Dimension
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.identity import Identity, claim
from trainer.metrics import Judged
from trainer.records import Sample
from trainer.runs.json_log import JsonLog, LogError, open_log, read_log

PREDICTIONS_NAME = "predictions.jsonl"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StatedFinding(_Record):
    """The verdict of the reasoning about one picture; see `screening.answer.Finding`."""

    option: str
    dimensions: tuple[Dimension, ...] | None
    comment: str

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Write down a finding, its dimensions in the order of the enumeration."""
        named = finding.dimensions
        dimensions = None if named is None else tuple(dimension for dimension in Dimension if dimension in named)
        return cls(option=finding.option, dimensions=dimensions, comment=finding.comment)

    def read(self) -> Finding:
        """The finding as the parser gave it."""
        return Finding(self.option, None if self.dimensions is None else frozenset(self.dimensions), self.comment)


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
    """Why the output ended: `stop`, `length` (cut at the limit). An endpoint may say others (`content_filter`), and
    `refused` stands for a request that it did not take: its answer is empty."""
    options: str | None
    """As letters in order, or `N`; None when unreadable."""
    unreadable: UnreadableAnswer | None
    correct: bool
    """Of `options`, by the paper's rule; see `trainer.metrics.correct`."""
    choice: str | None
    """The one option that the service would give: the most probable of those named; None when unreadable, and where
    probabilities are not known."""
    confidence: float | None = Field(ge=0, le=1)
    """Of the choice, calibrated; 0 when unreadable. None where probabilities are not known (behind an endpoint)."""
    probability: float | None = Field(None, ge=0, le=1)
    """What the confidence was before the curve of the calibration; None where it is not known, as in an unreadable
    answer."""
    usable: dict[str, float] = {}
    """u(X) of `screening.confidence` for the options where it could be read, as the model gave it."""
    findings: tuple[StatedFinding, ...]
    prompt_tokens: int | None
    """None where an endpoint does not count them."""
    completion_tokens: int | None
    domain_score: float | None = None
    """The highest out-of-domain score of the sample's pictures, 1 and above is flagged; None where it is not known."""
    model: str | None = None
    """As an endpoint names the model that answered, often more exactly than it was asked for."""

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
        """Write down one judged sample."""
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
        )

    @property
    def result(self) -> Answer | Unreadable:
        """What the text was read as. The reasoning is left out: the text holds it."""
        if self.unreadable is not None:
            return Unreadable(self.unreadable.reason, self.unreadable.detail)
        findings = tuple(finding.read() for finding in self.findings)
        return Answer(frozenset(self.options or "") - {NONE}, None, findings)


class Predictions:
    """The open log of one evaluation. `done` maps ids to predictions, those of earlier runs included."""

    def __init__(self, path: Path, log: JsonLog[Prediction]) -> None:
        self.path = path
        self.done = {prediction.id: prediction for prediction in log.written}
        self._log = log

    def missing(self, samples: Iterable[Sample]) -> list[Sample]:
        """Those not answered yet."""
        return [sample for sample in samples if sample.id not in self.done]

    def judged(self, samples: Iterable[Sample]) -> list[Judged]:
        """The samples with what was answered, for scoring."""
        return [Judged(sample, self.done[sample.id].result, self.done[sample.id].choice) for sample in samples]

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions as whole lines, on disk before this returns."""
        new = list(predictions)
        self._log.append(new)
        self.done.update({prediction.id: prediction for prediction in new})

    def put_in_order(self, samples: Iterable[Sample]) -> None:
        """Bring the log into the order of the samples, as the last thing that is done with it: an endpoint's answers
        come as they come, and a finished log should not depend on it."""
        ordered = [self.done[sample.id] for sample in samples if sample.id in self.done]
        if [prediction.id for prediction in ordered] != list(self.done):
            lines = (prediction.model_dump_json(exclude_defaults=True) for prediction in ordered)
            write_atomically(self.path, "".join(f"{line}\n" for line in lines))


@contextmanager
def open_predictions(directory: Path, identity: Identity) -> Iterator[Predictions]:
    """Begin an evaluation in a directory, or go on with the same one.

    Raises:
        EvaluationError: the directory holds another evaluation or foreign files.
        LogError: its log is written by another process at this moment, or damaged elsewhere than in its last line.
    """
    claim(directory, identity)
    path = directory / PREDICTIONS_NAME
    with open_log(path, Prediction) as log:
        yield Predictions(path, log)


def read_predictions(directory: Path) -> dict[str, Prediction]:
    """What an evaluation answered, by sample, for whoever builds on it.

    Raises:
        EvaluationError: the directory holds no evaluation, or its log is damaged.
    """
    path = directory / PREDICTIONS_NAME
    try:
        return {prediction.id: prediction for prediction in read_log(path, Prediction)}
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}); evaluate again") from error
    except LogError as error:
        raise EvaluationError(str(error)) from error


def _unreadable(result: Answer | Unreadable) -> UnreadableAnswer | None:
    return None if isinstance(result, Answer) else UnreadableAnswer(reason=result.reason, detail=result.detail)
