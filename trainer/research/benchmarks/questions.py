"""One question of a benchmark, and a split benchmark on disk.

    DIR/train.jsonl, DIR/test.jsonl     one question per line
    DIR/pictures/<sha256>.<suffix>      each picture once, however many questions show it
    DIR/split.json                      written last: the source, the division, and the digest of each half

Reading a half compares it with its digest. So the test half is frozen: an edited question or picture is an error
instead of another score.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from functools import cache
from pathlib import Path
from string import ascii_uppercase
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.data_directory import DataError, read_bytes
from trainer.records import RelativePath

PICTURE = "<image>"
"""Placeholder for a picture in the text of a question."""

DIVISION_NAME = "split.json"


class Part(StrEnum):
    """The half for training, the half for scoring, or both together for a comparison with published scores."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


HALVES = (Part.TRAIN, Part.TEST)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(_Record):
    """One question with its answer."""

    id: str = Field(min_length=1)
    subtask: str = Field(min_length=1)
    text: str
    """Question and options, with `<image>` for each picture in order."""
    files: tuple[RelativePath, ...] = Field(min_length=1)
    """Files of the pictures, in the order of the text."""
    options: tuple[str, ...] = Field(max_length=len(ascii_uppercase))
    """Texts of the options A, B, C …; `<image>` if an option is a picture. Empty for an open question."""
    answer: str = Field(min_length=1)
    """The correct letter, or a word or number for an open question."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (shown := self.text.count(PICTURE)) != len(self.files):
            raise ValueError(f"the text has {shown} pictures but the question lists {len(self.files)} files")
        if self.options and (len(self.answer) != 1 or self.answer not in self.letters):
            raise ValueError(f"the answer {self.answer!r} is not one of {', '.join(self.letters)}")
        return self

    @property
    def letters(self) -> str:
        """`ABC` for three options; empty for an open question."""
        return ascii_uppercase[: len(self.options)]


class Half(_Record):
    """Statistics of one half."""

    questions: int
    pictures: int
    """Number of different pictures."""
    digest: str
    subtasks: dict[str, int]


class Division(_Record):
    """The content of `split.json`."""

    format: Literal[1] = 1
    benchmark: str
    seed: int
    source: str
    """Digest of the published files."""
    published: int
    """Number of questions of the whole benchmark, as its authors state."""
    groups: int
    """Number of groups. Questions that share a picture or are variants of each other form a group."""
    largest_group: int
    halves: dict[Part, Half]


class Benchmark(NamedTuple):
    """The checked questions of a part."""

    name: str
    directory: Path
    questions: list[Question]
    digest: str


def read_benchmark(directory: Path, part: Part) -> Benchmark:
    """Read a part of a split benchmark and compare it with its digest.

    Raises:
        DataError: the directory holds no split benchmark, or the part was changed.
    """
    division = read_division(directory)
    if part is not Part.ALL:
        return Benchmark(division.benchmark, directory, _half(directory, part, division), division.halves[part].digest)
    questions = [question for half in HALVES for question in _half(directory, half, division)]
    joined = hashlib.sha256("\n".join(division.halves[half].digest for half in HALVES).encode()).hexdigest()
    return Benchmark(division.benchmark, directory, questions, f"sha256:{joined}")


def read_division(directory: Path) -> Division:
    """Read `split.json`.

    Raises:
        DataError: the file is missing, damaged or from another version.
    """
    path = directory / DIVISION_NAME
    try:
        return Division.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); make it with `python -m trainer benchmark split`"
        ) from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged or from another version; divide the benchmark into a new --out") from error


def questions_digest(directory: Path, part: Part, questions: list[Question]) -> str:
    """Compute `sha256:…` over the lines of a half and the bytes of its pictures, in the order of the questions.

    Raises:
        DataError: a file cannot be read.
    """

    @cache
    def picture(file: str) -> bytes:
        return hashlib.sha256(read_bytes(directory, file)).digest()

    digest = hashlib.sha256(read_bytes(directory, lines_name(part)))
    for question in questions:
        for file in question.files:
            digest.update(picture(file))
    return f"sha256:{digest.hexdigest()}"


def read_questions(directory: Path, part: Part) -> list[Question]:
    """Read the lines of a half without comparing them with a digest.

    Raises:
        DataError: a line is not a question.
    """
    name = lines_name(part)
    questions = []
    for number, line in enumerate(read_bytes(directory, name).splitlines(), 1):
        try:
            questions.append(Question.model_validate_json(line))
        except ValidationError as error:
            raise DataError(f"{directory / name}, line {number} is not a question of this version") from error
    return questions


def lines_name(part: Part) -> str:
    """The file name of a half."""
    return f"{part}.jsonl"


def _half(directory: Path, part: Part, division: Division) -> list[Question]:
    questions = read_questions(directory, part)
    frozen, now = division.halves[part].digest, questions_digest(directory, part, questions)
    if now != frozen:
        raise DataError(
            f"the {part} half in {directory} was frozen as {frozen} but is now {now}; restore it, or divide the "
            "benchmark into a new --out"
        )
    return questions
