"""`hard-cases.json`: records which samples are hard for a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.runtime.atomic_write import write_atomically
from trainer.records import Sample
from trainer.training.hard_cases.cases import Cases, HardCasesError

RECORD_NAME = "hard-cases.json"


class HardCases(BaseModel):
    """The content of the file. The counts are for people; `ids` are in the order of the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    checkpoint: str
    """Digest of the stage-1 model's manifest."""
    data: str
    """Digest of the training data."""
    samples: int
    hard: int
    easy: int
    ids: tuple[str, ...]
    """Ids of the hard cases."""


def write_hard_cases(directory: Path, cases: Cases, *, checkpoint: str, data: str) -> None:
    """Write the file.

    Args:
        checkpoint: digest of the checkpoint.
        data: digest of the data.
    """
    easy = len(cases.all) - len(cases.hard)
    record = HardCases(
        checkpoint=checkpoint, data=data, samples=len(cases.all), hard=len(cases.hard), easy=easy, ids=cases.hard
    )
    write_atomically(directory / RECORD_NAME, record.model_dump_json(indent=1) + "\n")


def read_hard_cases(directory: Path, samples: Sequence[Sample], *, checkpoint: str, data: str) -> Cases:
    """Read the hard cases of a checkpoint on a training set.

    Args:
        samples: the training set.
        checkpoint: digest of the checkpoint.
        data: digest of the training set.

    Raises:
        HardCasesError: the directory has no hard cases, or those of another checkpoint or of other data.
    """
    path = directory / RECORD_NAME
    try:
        record = HardCases.model_validate_json(path.read_bytes())
    except OSError as error:
        raise HardCasesError(
            f"{path} cannot be read ({error.strerror}). Run `python -m trainer hard-cases` with {directory} as --out"
        ) from error
    except ValidationError as error:
        raise HardCasesError(
            f"{path} was written by another version of the trainer. Run `python -m trainer hard-cases` again"
        ) from error
    for what, there, wanted in (("checkpoint", record.checkpoint, checkpoint), ("data", record.data, data)):
        if there != wanted:
            raise HardCasesError(
                f"{path} is of another {what} ({there}, not {wanted}). Run `python -m trainer hard-cases` for this one"
            )
    everything = tuple(sample.id for sample in samples)
    if unknown := set(record.ids) - set(everything):
        raise HardCasesError(
            f"{path} names samples that the data does not have, such as {min(unknown)}. Run "
            "`python -m trainer hard-cases` again"
        )
    return Cases(everything, record.ids)
