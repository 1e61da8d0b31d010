"""Keeps example decisions of stage 2: a question's pictures, and a group of completions with their rewards.

`OUT/examples.jsonl` has one example per line, in the order of steps. The pictures are in `OUT/examples`, scaled down
and named by their content, so that a repeated question takes no more space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from screening.runtime.atomic_write import write_atomically
from trainer.records import Sample
from trainer.runs.html import thumbnail, truth
from trainer.runs.json_log import read_log

EXAMPLES_NAME = "examples.jsonl"
PICTURES_NAME = "examples"


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Completion(_Line):
    """One answer of a group."""

    text: str
    tokens: int
    rewards: dict[str, float]
    """Reward by the name of its function."""

    @property
    def reward(self) -> float:
        """r of eq. 6, the sum of its parts."""
        return sum(self.rewards.values())


class Example(_Line):
    """One question, and the model's answers to it before this step."""

    step: int
    id: str
    label: str
    pictures: tuple[str, ...]
    """Files of the original and of A to D, in `OUT/examples`."""
    truth: tuple[str, ...]
    """Defects of A to D in words, or `usable`."""
    group: tuple[Completion, ...]


def keep_example(out: Path, data: Path, sample: Sample, step: int, group: Sequence[Completion]) -> None:
    """Add an example to the run directory. Examples from this step on, which a killed run left, are replaced.

    Raises:
        DataError: a picture of the sample cannot be read.
        LogError: the existing examples are damaged.
    """
    path = out / EXAMPLES_NAME
    new = Example(
        step=step,
        id=sample.id,
        label=sample.label,
        pictures=tuple(_store(out / PICTURES_NAME, thumbnail(data, sample, file)) for file in sample.files),
        truth=tuple(truth(picture) for picture in sample.generated),
        group=tuple(group),
    )
    earlier = [example for example in read_examples(out) if example.step < step]
    write_atomically(path, "".join(example.model_dump_json() + "\n" for example in [*earlier, new]))


def read_examples(out: Path) -> list[Example]:
    """Read the examples of a run directory, in the order of steps.

    Raises:
        LogError: a line is damaged.
    """
    path = out / EXAMPLES_NAME
    return read_log(path, Example) if path.exists() else []


def _store(directory: Path, picture: bytes) -> str:
    """Write a JPEG file that is named by its content; returns the name."""
    name = f"{hashlib.sha256(picture).hexdigest()[:20]}.jpg"
    if not (directory / name).exists():
        directory.mkdir(exist_ok=True)
        write_atomically(directory / name, picture)
    return name
