"""What is to be annotated: samples with their truth, or samples that nobody has labelled.

The pseudo-label split of the paper (table 1) has no labels, so its lines in `samples.jsonl` have neither `label` nor
`reasoning`, and a generated picture has only `file`, `option` and perhaps `caption`. A directory is labelled throughout
or not at all; its first line tells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from screening.task import OPTIONS
from trainer.records import SAMPLES_NAME, DataError, Original, RelativePath, Sample, data_digest, read_samples


@dataclass(frozen=True, slots=True)
class Question:
    """One original with its four generated pictures; `truth` is None where nobody has labelled it."""

    id: str
    product: str
    original: Original
    generated: tuple[str, ...]
    """Files of A, B, C, D."""
    seed: int | None = None
    setting: str | None = None
    truth: Sample | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The five pictures in the order of the question: original, A, B, C, D."""
        return (self.original.file, *self.generated)

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """A labelled question."""
        return cls(
            sample.id, sample.product, sample.original, sample.files[1:], sample.seed, sample.setting, truth=sample
        )


def read_questions(directory: Path) -> list[Question]:
    """Read and check all questions of a data directory, in the order of the file.

    Raises:
        DataError: see `trainer.records.read_samples`; the same is checked in a directory without labels.
    """
    if _labelled(directory):
        return [Question.of(sample) for sample in read_samples(directory)]
    return _read_unlabelled(directory)


def questions_digest(directory: Path, questions: Sequence[Question]) -> str:
    """The digest of the data directory, labelled or not; see `trainer.records.data_digest`."""
    return data_digest(directory, cast("Sequence[Sample]", questions))  # it looks at `files` alone


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Picture(_Record):
    file: RelativePath
    option: str
    caption: str = ""


class _Unlabelled(_Record):
    id: str = Field(min_length=1)
    product: str
    original: Original
    generated: tuple[_Picture, ...]
    label: None = None
    seed: int | None = None
    setting: str | None = None

    @model_validator(mode="after")
    def _four(self) -> Self:
        if (options := tuple(picture.option for picture in self.generated)) != OPTIONS:
            raise ValueError(f"generated must be options A, B, C, D in this order, not {', '.join(options) or 'none'}")
        return self


def _labelled(directory: Path) -> bool:
    """Whether the first line has a label. Of a file that cannot be read, the reader of samples will complain."""
    try:
        with (directory / SAMPLES_NAME).open("rb") as handle:
            first: Any = json.loads(handle.readline())
    except (OSError, ValueError):
        return True
    return not isinstance(first, dict) or first.get("label") is not None


def _read_unlabelled(directory: Path) -> list[Question]:
    path = directory / SAMPLES_NAME
    questions: dict[str, Question] = {}
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            where = f"{path}, line {number}"
            question = _parse(line, where)
            if question.id in questions:
                raise DataError(f"{where}, id: {question.id!r} occurs twice")
            for file in question.files:
                if not (directory / file).is_file():
                    raise DataError(f"{where}: the picture {file} is not in {directory}")
            questions[question.id] = question
    return list(questions.values())


def _parse(line: bytes, where: str) -> Question:
    try:
        read = _Unlabelled.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{where}{', ' + field if field else ''}: {message} (in a directory without labels)") from error
    files = tuple(picture.file for picture in read.generated)
    return Question(read.id, read.product, read.original, files, read.seed, read.setting)
