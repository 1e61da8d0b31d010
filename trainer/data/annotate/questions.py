"""The questions to annotate: samples with labels, and samples without (paper, table 1: pseudo-label)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from trainer.data_directory import data_digest, read_any_samples
from trainer.records import AnySample, Original, Sample


@dataclass(frozen=True, slots=True)
class Question:
    """One original with its four generated pictures; `truth` is None if it has no label."""

    id: str
    product: str
    original: Original
    generated: tuple[str, ...]
    """Files of A, B, C, D."""
    seed: int | None = None
    setting: str | None = None
    licence: str | None = None
    truth: Sample | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The five pictures in the order of the question: original, A, B, C, D."""
        return (self.original.file, *self.generated)

    @classmethod
    def of(cls, sample: AnySample) -> Self:
        """The question of a sample."""
        truth = sample if isinstance(sample, Sample) else None
        return cls(
            id=sample.id,
            product=sample.product,
            original=sample.original,
            generated=sample.files[1:],
            seed=sample.seed,
            setting=sample.setting,
            licence=sample.licence,
            truth=truth,
        )


def read_questions(directory: Path) -> list[Question]:
    """Read and check all questions of a data directory, labelled or not, in the order of the file.

    Raises:
        DataError: see `trainer.data_directory.read_samples`.
    """
    return [Question.of(sample) for sample in read_any_samples(directory)]


def questions_digest(directory: Path, questions: Sequence[Question]) -> str:
    """The digest of the data directory, labelled or not; see `trainer.data_directory.data_digest`.

    Pictures are not checked here, because a broken picture should only reject its own sample.
    """
    return data_digest(directory, cast("Sequence[Sample]", questions), check=False)  # it only reads `files`
