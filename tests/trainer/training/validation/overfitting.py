"""Trainings that overfit on purpose, in Direct mode, where an answer is learned in a few steps.

Four of six training samples have the label A, so the model first learns to answer A to everything. The other two have
the label B. The validation samples look like these two and have the label A: once the model knows its training samples
by heart, it answers B to them.
"""

from __future__ import annotations

import itertools
import json
import pydoc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from screening.task import OPTIONS
from trainer.__main__ import main

Colour = tuple[int, int, int]
COLOURS: tuple[Colour, ...] = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250), (0, 0, 0), (250, 250, 0))
LABELS = ("A", "A", "A", "A", "B", "B")


def coloured(directory: Path, samples: Sequence[tuple[Colour, str]], *, shade: int = 0) -> Path:
    """Samples whose five pictures have one colour, with their labels.

    Args:
        shade: makes other pictures of nearly the same colours, if it is at least 5: each sample has five shades.
    """
    lines = []
    for number, (colour, label) in enumerate(samples):
        name = f"{directory.name}-{number}"
        (directory / name).mkdir(parents=True)
        for place, file in enumerate(("original", *OPTIONS)):
            red, green, blue = (abs(value - shade - place) for value in colour)
            Image.new("RGB", (48, 48), (red, green, blue)).save(directory / name / f"{file}.png")
        files = [f"{name}/{option}.png" for option in OPTIONS]
        record = {"id": name, "product": name, "original": f"{name}/original.png", "generated": files, "label": label}
        lines.append(json.dumps(record) + "\n")
    (directory / "samples.jsonl").write_text("".join(lines))
    return directory


def training_data(directory: Path) -> Path:
    return coloured(directory, list(zip(COLOURS, LABELS, strict=True)))


def contradicting_data(directory: Path) -> Path:
    return coloured(directory, [(colour, "A") for colour in COLOURS[4:]], shade=5)


def write_recipe(path: Path, validation: dict[str, Any] | None, **changes: Any) -> Path:
    """A recipe whose training has 40 steps of all six samples."""
    sft = {"epochs": 40, "batch_size": 6, "learning_rate": 0.01, "captions": False, "direct_share": 1.0, **changes}
    settings = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": sft}
    path.write_text(yaml.safe_dump({**settings, "sft_answer": {**sft, "validation": validation}}))
    return path


def sft(recipe: Path, checkpoint: Path, data: Path, out: Path, *options: object) -> int:
    given = ["--recipe", recipe, "--checkpoint", checkpoint, "--data", data, "--out", out, *options]
    return main(["sft", "--stage", "answer-driven", "--tracking-uri", "none", *map(str, given)])


class Ended(BaseException):
    """A process that ends in the middle: nothing may catch it."""


def end_at(patch: pytest.MonkeyPatch, function: str, call: int) -> None:
    """End the training instead of this call of the function, which is named by its module, class and name."""
    owner, _, name = function.rpartition(".")
    real, calls = getattr(pydoc.locate(owner), name), itertools.count(1)

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise Ended
        return real(*args, **kwargs)

    patch.setattr(pydoc.locate(owner), name, counted)


def scores(out: Path) -> list[tuple[int, float]]:
    """Step and score of each evaluation in a run's log."""
    log = json.loads((out / "log.json").read_text())
    return [(entry["step"], entry["validation/score"]) for entry in log if "validation/score" in entry]
