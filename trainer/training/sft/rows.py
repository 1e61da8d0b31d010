"""Makes rows for TRL's trainers: `prompt` and `completion` as message lists, `images` in prompt order.

Pictures are read when a row is used, so memory holds those of two batches, this one and the one before it. The function
that reads them is the service's, so training and serving see the same pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from screening.answer import Answer, Mode, parse_findings, render, with_boxes
from screening.boxes import Box, Frame
from screening.checkpoint.manifest import ImageContract
from screening.prompt import Prompt, locating, messages
from screening.task import OPTIONS, Dimension
from trainer.data_directory import DataError, read_picture
from trainer.records import Generated, Original, Sample
from trainer.training.instructions import DESCRIBE

_NOT_FOR_TRL = ("files", "form")
"""Keys of a row that are not passed on to TRL."""


def screening_rows(
    samples: Sequence[Sample],
    prompt: Prompt,
    *,
    direct_share: float,
    seed: int,
    locate: float = 0.0,
    frame_of: Callable[[str], Frame] = lambda _file: Frame(),
) -> list[dict[str, Any]]:
    """Make one row per sample: the question, and the target with reasoning and answer.

    Each row also has its `form` (`screening.prompt.Form`).

    Args:
        direct_share: share of samples that are asked for the letters only (Direct mode).
        locate: share of the samples in CoT mode with known boxes that are asked where each issue is, in place of the
            plain question.
        frame_of: how a picture lies on the canvas that the model sees, by its file; by default it fills the canvas.

    Raises:
        DataError: a sample in CoT mode has no reasoning, or `locate` is set and no sample is asked for boxes.
    """
    rng, locating_rng = random.Random(seed), random.Random(f"{seed}/locate")
    rows, located = [], 0
    for sample in samples:
        mode = Mode.DIRECT if rng.random() < direct_share else Mode.COT
        if mode is Mode.COT and not sample.reasoning.strip():
            raise DataError(
                f"sample {sample.id} has no reasoning, which training in CoT mode needs. Write it with `annotate`"
            )
        drawn = mode is Mode.COT and locating_rng.random() < locate
        boxes = known_boxes(sample, frame_of) if drawn else None
        if boxes is None:
            answer = Answer(sample.options, sample.reasoning)
            row = _row(messages(prompt, mode), render(answer, mode), sample.files)
        else:
            located += 1
            answer = Answer(sample.options, with_boxes(sample.reasoning, boxes))
            row = _row(messages(locating(prompt), mode, locate=True), render(answer, mode), sample.files)
        rows.append(row | {"form": (mode, boxes is not None)})
    if locate and not located:
        raise DataError(_why_none_located(samples, locate, direct_share, frame_of))
    return rows


def _why_none_located(
    samples: Sequence[Sample], locate: float, direct_share: float, frame_of: Callable[[str], Frame]
) -> str:
    able = sum(known_boxes(sample, frame_of) is not None for sample in samples)
    if not able:
        return (
            "no sample has a `box` for each defect that its reasoning names, so `locate` cannot be trained. Render the "
            "data again into a new directory, or set `locate: 0`"
        )
    return (
        f"with `locate: {locate:g}` and `direct_share: {direct_share:g}`, none of the samples with known boxes ({able} "
        f"of {len(samples)}) was drawn to be asked for them. Raise `locate`, lower `direct_share`, or set `locate: 0`"
    )


def known_boxes(sample: Sample, frame_of: Callable[[str], Frame]) -> Mapping[str, list[Box]] | None:
    """The boxes of the defects that a reasoning names, on the canvases that the model sees.

    Returns:
        Option → boxes in the order of the dimensions; None if a verdict or a box is not known.
    """
    findings = {finding.option: finding for finding in parse_findings(sample.reasoning)}
    if set(findings) != set(OPTIONS):
        return None
    boxes: dict[str, list[Box]] = {}
    for picture in sample.generated:
        dimensions = findings[picture.option].dimensions
        if dimensions is None:
            return None
        found = [picture.box_of(dimension) for dimension in Dimension if dimension in dimensions]
        placed = [box for box in found if box is not None]
        if len(placed) < len(found):
            return None
        if placed:
            frame = frame_of(picture.file)
            boxes[picture.option] = [frame.on_canvas(box) for box in placed]
    return boxes


def caption_rows(samples: Sequence[Sample], *, most: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Make one row per picture that has a caption (paper, section 3.2: the teacher first describes each picture).

    Args:
        most: maximum number of captions per sample; None for all.
    """
    rng = random.Random(seed)
    ask: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": DESCRIBE},
                {"type": "text", "text": "Original:"},
                {"type": "image"},
            ],
        }
    ]
    rows = []
    for sample in samples:
        pictures: list[Original | Generated] = [sample.original, *sample.generated]
        described = [picture for picture in pictures if picture.caption]
        if most is not None and most < len(described):
            described = rng.sample(described, most)
        rows += [_row(ask, picture.caption, (picture.file,)) for picture in described]
    return rows


def dataset(rows: list[dict[str, Any]], data: Path, image: ImageContract) -> Dataset:
    """Make a dataset whose pictures are loaded on access and prepared for the model.

    Until then, rows are stored as JSON text: message contents differ in their keys, and Arrow would fill missing keys
    with None, which chat templates do not expect. Access raises a DataError that names a picture that cannot be loaded.

    Args:
        image: how the checkpoint's pictures are prepared.
    """
    import json

    table = Dataset.from_dict({"row": [json.dumps(row) for row in rows]})
    latest: dict[str, Image.Image] = {}

    def load(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        nonlocal latest
        decoded = [json.loads(row) for row in batch["row"]]
        # A batch of rollouts holds each row once per completion, and TRL asks for it again in each pass of a step. Each
        # picture of a step is read once.
        files = dict.fromkeys(file for row in decoded for file in row["files"])
        latest = {file: latest.get(file) or read_picture(data, file, image) for file in files}
        pictures = [[latest[file] for file in row["files"]] for row in decoded]
        columns = {name: [row[name] for row in decoded] for name in decoded[0] if name not in _NOT_FOR_TRL}
        return {**columns, "images": pictures}

    return table.with_transform(load)


def rollout_rows(samples: Iterable[Sample], prompt: Prompt) -> list[dict[str, Any]]:
    """Make one row per question, without its answer, which the model finds itself (paper, section 4, stage 2)."""
    ask = messages(prompt, Mode.COT)
    return [{"prompt": ask, "label": sample.label, "id": sample.id, "files": list(sample.files)} for sample in samples]


def _row(prompt: list[dict[str, Any]], completion: str, files: Sequence[str]) -> dict[str, Any]:
    answer = [{"role": "assistant", "content": [{"type": "text", "text": completion}]}]
    return {"prompt": prompt, "completion": answer, "files": list(files)}
