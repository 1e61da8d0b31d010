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

from trainer.records import SAMPLES_NAME, Original, Picture, Sample, SampleLine, data_digest, read_lines, read_samples


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
    return [_unlabelled(line) for line in read_lines(directory, _Unlabelled, " (in a directory without labels)")]


def questions_digest(directory: Path, questions: Sequence[Question]) -> str:
    """The digest of the data directory, labelled or not; see `trainer.records.data_digest`.

    Pictures are not checked: a broken one rejects its sample and no other.
    """
    return data_digest(directory, cast("Sequence[Sample]", questions), check=False)  # it looks at `files` alone


class _Picture(Picture):
    caption: str = ""


class _Unlabelled(SampleLine):
    generated: tuple[_Picture, ...]
    label: None = None
    seed: int | None = None
    setting: str | None = None


def _labelled(directory: Path) -> bool:
    """Whether the first line has a label. Of a file that cannot be read, the reader of samples will complain."""
    try:
        with (directory / SAMPLES_NAME).open("rb") as handle:
            first: Any = json.loads(handle.readline())
    except (OSError, ValueError):
        return True
    return not isinstance(first, dict) or first.get("label") is not None


def _unlabelled(line: _Unlabelled) -> Question:
    return Question(line.id, line.product, line.original, line.files[1:], line.seed, line.setting)
