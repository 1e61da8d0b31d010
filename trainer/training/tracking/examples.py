"""Example decisions of stage 2, kept while training: a question's pictures, and a group's completions with rewards.

`OUT/examples.jsonl` has one example per line, in the order of steps. Its pictures lie in `OUT/examples`, small and
named by their content: a question that comes again takes no more space.
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
    """Per reward function, by its name."""

    @property
    def reward(self) -> float:
        """r of eq. 6, the sum of its parts."""
        return sum(self.rewards.values())


class Example(_Line):
    """One question and what the model answered before this step."""

    step: int
    id: str
    label: str
    pictures: tuple[str, ...]
    """Files of the original and of A to D, in `OUT/examples`."""
    truth: tuple[str, ...]
    """What is wrong with A to D, in words; `usable` where nothing is."""
    group: tuple[Completion, ...]


def keep_example(out: Path, data: Path, sample: Sample, step: int, group: Sequence[Completion]) -> None:
    """Add an example to the run directory, in place of those from this step on: a killed run does them again.

    Raises:
        DataError: a picture of the sample cannot be read.
        LogError: the examples that are there are damaged.
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
    """The examples of a run directory, in the order of steps; none if it has none.

    Raises:
        LogError: a line is damaged.
    """
    path = out / EXAMPLES_NAME
    return read_log(path, Example) if path.exists() else []


def _store(directory: Path, picture: bytes) -> str:
    """Write a JPEG under a name made of its content; returns the name."""
    name = f"{hashlib.sha256(picture).hexdigest()[:20]}.jpg"
    if not (directory / name).exists():
        directory.mkdir(exist_ok=True)
        write_atomically(directory / name, picture)
    return name
