"""What was answered so far: `evaluation.json` says which evaluation a directory holds, `predictions.jsonl` is its log.

The log grows by whole lines and is flushed after each batch, so a killed run goes on where it stopped. A line cut by
the kill is dropped and its sample answered again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from screening.answer import Answer, Finding, Mode, Reason, Unreadable
from screening.task import NONE, Dimension
from trainer.records import Sample
from trainer.run_directory import write_atomically
from trainer.scores import Judged

IDENTITY_NAME = "evaluation.json"
PREDICTIONS_NAME = "predictions.jsonl"


class EvaluationError(Exception):
    """An evaluation cannot start or go on; the message says what to do."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Record):
    """What makes two evaluations the same: their predictions can be mixed."""

    format: Literal[1] = 1
    checkpoint: str
    """Digest of the manifest."""
    data: str
    """Digest of the data directory."""
    mode: Mode


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
    finish: Literal["stop", "length"]
    options: str | None
    """As letters in order, or `N`; None when unreadable."""
    unreadable: UnreadableAnswer | None
    correct: bool
    """Of `options`, by the paper's rule; see `trainer.scores.correct`."""
    choice: str | None
    """The one option that the service would give: the most probable of those named; None when unreadable."""
    confidence: float = Field(ge=0, le=1)
    """Of the choice, calibrated; 0 when unreadable."""
    findings: tuple[StatedFinding, ...]
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(
        cls,
        judged: Judged,
        *,
        text: str,
        finish: Literal["stop", "length"],
        confidence: float,
        prompt_tokens: int,
        completion_tokens: int,
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
            findings=tuple(StatedFinding.of(finding) for finding in (answer.findings if answer else ())),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
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

    def __init__(self, path: Path, handle: int, done: dict[str, Prediction]) -> None:
        self.path = path
        self.done = done
        self._handle = handle

    def judged(self, samples: Iterable[Sample]) -> list[Judged]:
        """The samples with what was answered, for scoring."""
        return [Judged(sample, self.done[sample.id].result, self.done[sample.id].choice) for sample in samples]

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions as whole lines, on disk before this returns."""
        for prediction in predictions:
            _write_all(self._handle, prediction.model_dump_json().encode() + b"\n")
            self.done[prediction.id] = prediction
        os.fsync(self._handle)


@contextmanager
def open_predictions(directory: Path, identity: Identity) -> Iterator[Predictions]:
    """Begin an evaluation in a directory, or go on with the same one.

    Raises:
        EvaluationError: the directory holds another evaluation or foreign files, is written by another process at this
            moment, or its log is damaged elsewhere than in its last line.
    """
    _claim(directory, identity)
    path = directory / PREDICTIONS_NAME
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(f"{path} is being written by another evaluation; wait for it to end") from None
        yield Predictions(path, handle, _recover(path, handle))
    finally:
        os.close(handle)  # also gives up the lock


def read_predictions(directory: Path, identity: Identity) -> list[Prediction]:
    """What an evaluation answered, for whoever builds on it.

    Raises:
        EvaluationError: the directory holds no evaluation, or another one.
    """
    path = directory / PREDICTIONS_NAME
    if not path.is_file():
        raise EvaluationError(f"{directory} holds no evaluation; run `python -m trainer evaluate` with it as --out")
    _claim(directory, identity)
    return list(_parse(path, path.read_bytes()).values())


def _claim(directory: Path, identity: Identity) -> None:
    """Make the directory this evaluation's, or see that it is."""
    path = directory / IDENTITY_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            foreign = sorted(entry.name for entry in directory.iterdir() if entry.name != f".{IDENTITY_NAME}.partial")
            if foreign:
                raise EvaluationError(
                    f"{directory} is not empty ({', '.join(foreign[:3])}) and holds no evaluation; give a new --out"
                )
            write_atomically(path, identity.model_dump_json(indent=2) + "\n")
            return
        there = Identity.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{directory} cannot be used as --out ({error.strerror})") from error
    except ValidationError as error:
        raise EvaluationError(f"{path} is not from this version of the evaluation; give a new --out") from error
    for field, what in (("checkpoint", "checkpoint"), ("data", "data set"), ("mode", "mode")):
        old, new = getattr(there, field), getattr(identity, field)
        if old != new:
            raise EvaluationError(
                f"{directory} holds the evaluation of another {what} ({old}, not {new}); give a new --out"
            )


def _recover(path: Path, handle: int) -> dict[str, Prediction]:
    """Read the log and cut off a last line that was not written whole."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    os.ftruncate(handle, whole)
    return _parse(path, data[:whole])


def _parse(path: Path, data: bytes) -> dict[str, Prediction]:
    done: dict[str, Prediction] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            prediction = Prediction.model_validate_json(line)
        except ValidationError as error:
            raise EvaluationError(
                f"{path}, line {number} is not a prediction of this version; remove the file to answer all again"
            ) from error
        done[prediction.id] = prediction
    return done


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _unreadable(result: Answer | Unreadable) -> UnreadableAnswer | None:
    return None if isinstance(result, Answer) else UnreadableAnswer(reason=result.reason, detail=result.detail)
